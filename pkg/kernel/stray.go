package kernel

import (
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// OwnerOf returns the owner, a container ID, that the table inet egress_ip has for a
// pod address; ok is false where it does not have the pod.
func (k *Kernel) OwnerOf(out egress.Element) (owner string, ok bool, err error) {
	e, ok, err := k.element(out)
	return e.Owner, ok, k.classifyError(err)
}

// PodElements returns the elements of pods in the table inet egress_ip that match.
func (k *Kernel) PodElements(match func(egress.Element) bool) (found []egress.Element, err error) {
	err = k.consistent(func() error {
		found = nil
		for _, f := range egress.Families {
			for _, set := range []string{f.Out(), f.Back(), f.Guard(), f.SNAT(), f.Pods(), f.Bridged()} {
				elements, err := k.elements(set, nil)
				if err != nil {
					return err
				}
				for _, e := range elements {
					if match(e) {
						found = append(found, e)
					}
				}
			}
		}
		return nil
	})
	return found, k.classifyError(err)
}
