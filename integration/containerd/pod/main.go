// Command pod is the only program in the pods' image: without arguments it is the pause
// process, and `pod ask ADDRESS` prints what a who-am-I server at an address like
// "203.0.113.80:8080" answers, over TCP.
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
	if len(os.Args) == 3 && os.Args[1] == "ask" {
		answer, err := ask(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(answer)
		return
	}
	// The first process of a PID namespace gets no signal that it has not asked for.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	<-end
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
