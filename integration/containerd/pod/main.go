// Command pod is the only program in the pods' image. Without arguments it is the pause
// process. `pod ask ADDRESS` prints what a who-am-I server at an address like
// "203.0.113.80:8080" answers, over TCP; `pod serve ADDRESS` is such a server, and tells
// every peer its IP address.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		// The first process of a PID namespace gets no signal that it has not asked for.
		end := make(chan os.Signal, 1)
		signal.Notify(end, unix.SIGTERM, unix.SIGINT)
		<-end
		return nil
	case len(args) == 2 && args[0] == "ask":
		answer, err := ask(args[1])
		fmt.Print(answer)
		return err
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	}
	return fmt.Errorf("usage: pod [ask|serve ADDRESS], not %q", args)
}

// patience is for a whole answer, on a small machine where many pods start at once.
const patience = 5 * time.Second

func ask(address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		_, _ = fmt.Fprint(conn, peer.Unmap()) // that the peer is gone is the peer's affair
		conn.Close()
	}
}
