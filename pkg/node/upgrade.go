package node

import "log/slog"

// lockToChange is lock for calls that change what pods have. A table inet egress_ip that
// another version, or nft, has made is replaced first: its parts cannot be changed one by one.
func (n *Node) lockToChange() error {
	if err := n.lock(); err != nil {
		return err
	}
	former, err := n.kernel.IsFormer()
	if err != nil || !former {
		return err
	}
	v, err := n.look()
	if err != nil {
		return err
	}
	slog.Info("the table inet egress_ip is replaced: another version, or nft, has made it")
	return n.repair(v)
}
