package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// texts are the record's files, without the copies and what a call is writing.
func (c *cluster) texts(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, name := range c.recorded(t) {
		if text, err := os.ReadFile(filepath.Join(c.recordDir(t), name)); err == nil {
			texts[name] = string(text)
		}
	}
	return texts
}

// TestRecordNotRead: a file or a directory of the record that a call cannot read this time is
// neither damaged nor absent. A call that needs it fails, what is recorded stays, and the next
// call finishes.
func TestRecordNotRead(t *testing.T) {
	t.Parallel()
	const (
		own  = "/attachments/pod:eth0.json"
		file = "openat,open,read,newfstatat,lstat,stat:error="
	)
	isRecorded := func(texts map[string]string) bool { return texts[own] != "" || texts[own+".ending"] != "" }
	commands := map[string]func(*cluster) *exec.Cmd{
		"DEL": func(*cluster) *exec.Cmd { return pluginCommand(call{command: "DEL", containerID: "pod"}) },
		"GC": func(*cluster) *exec.Cmd {
			return pluginCommand(call{command: "GC", stdin: gcStdin(t, "net", object{"cni.dev/valid-attachments": []object{}})})
		},
		"resync": func(*cluster) *exec.Cmd { return exec.Command(filepath.Join(bin, "egress-ip"), "resync") },
		"status": func(*cluster) *exec.Cmd { return exec.Command(filepath.Join(bin, "egress-ip"), "status") },
		"cleanup": func(*cluster) *exec.Cmd {
			return exec.Command(filepath.Join(bin, "egress-ip"), "cleanup", "--force")
		},
	}
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", noProbe)
			empty := c.state(t)
			table := c.table(t)
			for path, all := range map[string][]string{
				own:                            {file + "EIO", "read:error=EIO", "openat,open:error=EMFILE"},
				"/attachments":                 {file + "EIO", "openat,open:error=ENFILE"},
				"/tables":                      {file + "EIO"},
				"/tables/" + table + "-4.json": {file + "EIO", "openat,open:error=EPERM"},
				"/cluster.json":                {file + "ENOMEM"},
				"/probe.json":                  {file + "EACCES"},
				"/marked.json":                 {file + "EMFILE", "read:error=EIO"},
				"/src_valid_mark":              {file + "EIO"},
			} {
				for _, inject := range all {
					d.add(t, both)
					attached := c.state(t)
					if path == "/src_valid_mark" { // an earlier version has set it
						require.NoError(t, os.WriteFile(c.recordDir(t)+path, nil, 0o600))
						c.Node.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", "1")
						attached = ""
					}
					texts := c.texts(t)
					c.command(t, "ip", "rule", "del", "from", "10.244.1.5")
					out, exit := failing(t, c.Node, c.recordDir(t)+path, inject, command(c))
					about := path + " " + inject + "\n" + out
					require.NotContains(t, out, "set aside", about)
					switch name {
					case "resync", "status":
						require.NotZero(t, exit, about)
						require.Contains(t, out, strings.TrimPrefix(path, "/"), about)
						require.Equal(t, texts, c.texts(t), about)
						healed := c.state(t)
						if name == "resync" && path != own && path != "/attachments" && attached != "" {
							require.Equal(t, attached, healed, about) // what could be read goes on
						}
						require.NoError(t, c.bareDel("pod"), about)
					case "DEL", "GC":
						if exit != 0 {
							require.True(t, isRecorded(c.texts(t)), about)
							_, err := c.plugin(call{command: "DEL", containerID: "pod"})
							require.NoError(t, err, about)
						}
					case "cleanup":
						if exit != 0 {
							require.True(t, isRecorded(c.texts(t)), about)
							_, exit = c.egressIP(t, "cleanup", "--force")
							require.Zero(t, exit, about)
						}
					}
					require.Equal(t, empty, c.state(t), about)
					require.Empty(t, c.srcValidMark(t), about)
				}
			}
		})
	}
}

// TestRecordNotReadForGood: the file of an attachment that no call can read keeps its pod's
// DEL from succeeding, and others' status from being content, and it ends nothing that
// others have.
func TestRecordNotReadForGood(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(path string) string{
		"at its opening": filepath.Base, // a symbolic link to itself
		"at its reading": func(string) string { return "/proc/self/mem" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, object{"probeSNAT": object{"mode": "never"}}, nil)
			unread, four := s.tenants[0], s.tenants[2]
			path := filepath.Join(s.recordDir(t), "attachments", unread.id+":eth0.json")
			require.NoError(t, os.Rename(path, path+".kept"))
			require.NoError(t, os.Symlink(target(path), path))

			out, _ := s.status(t, 1)
			require.Contains(t, out, "could not be read")
			require.Contains(t, out, "attachments/"+unread.id+":eth0.json")
			run("ip rule del from 10.244.1.7")(t, s.cluster)
			out, exit := s.egressIP(t, "resync")
			require.Equal(t, 1, exit)
			require.Contains(t, out, "10.244.1.7") // others are healed
			s.requireEgress(t)
			_, err := unread.call(t, "DEL", both)
			require.Error(t, err)
			s.requireEgress(t)
			_, exit = s.egressIP(t, "cleanup")
			require.Equal(t, 1, exit, "pods are recorded")
			never := filepath.Join(filepath.Dir(path), "never:eth0.json")
			out, exit = failing(t, s.Node, never, "openat,open,newfstatat,lstat:error=EIO", pluginCommand(call{command: "DEL", containerID: "never"}))
			require.Zero(t, exit, "a pod that has no record: %s", out)

			require.NoError(t, os.Rename(path+".kept", path))
			s.requireNothingToDo(t)
			s.requireEgress(t)
			four.del(t)
			for _, d := range s.tenants {
				d.del(t)
			}
			require.Empty(t, s.recorded(t))
			s.status(t, 0)
		})
	}
}
