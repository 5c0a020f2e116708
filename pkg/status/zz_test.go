package status_test
import ("testing";"os";"bytes";"github.com/egress-ip/egress-ip/pkg/status")
func TestZZ(t *testing.T) {
	os.MkdirAll("testdata",0o755)
	for n, s := range map[string]status.Status{"whole":whole(),"broken":broken(),"closed":closed(),"nothing":status.New(status.Status{}), "probe": status.New(status.Status{Probe:probe()})} {
		os.WriteFile("testdata/"+n+".txt", text(t,s), 0o644)
		if n!="closed" && n!="probe" {os.WriteFile("testdata/"+n+".json", jsonOf(t,s), 0o644)}
		var b bytes.Buffer
		s.WritePrometheus(&b, "v1"); if n=="broken" {os.Stdout.Write(b.Bytes())}
	}
}
