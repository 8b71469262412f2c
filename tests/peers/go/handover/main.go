// Command handover sends or receives many descriptors, for the benchmark of handovers.
//
//	handover send DIRECTORY COUNT...   sends COUNT descriptors to each client at
//	                                   DIRECTORY/COUNT
//	handover receive DIRECTORY         for each line "run COUNT ROUNDS" receives
//	                                   ROUNDS times from DIRECTORY/COUNT, and
//	                                   prints the nanoseconds of each
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"graceful.test/peer/backend"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 3 && os.Args[1] == "send" {
		send(os.Args[2], os.Args[3:])
	} else if len(os.Args) == 3 && os.Args[1] == "receive" {
		receive(os.Args[2])
	} else {
		log.Fatal("usage: handover send DIRECTORY COUNT... | handover receive DIRECTORY")
	}
}

func send(directory string, counts []string) {
	for _, text := range counts {
		count, err := strconv.Atoi(text)
		check(err)
		fds := make([]int, count)
		for i := range fds {
			fds[i], err = syscall.Dup(0)
			check(err)
		}
		ln, err := net.Listen("unix", filepath.Join(directory, text))
		check(err)
		go func() {
			check(backend.Serve(ln, backend.HandlerFunc(func(_ net.Conn, resp backend.ResponseWriter) {
				for _, fd := range fds {
					check(resp.Write(fd, nil))
				}
			})))
		}()
	}
	fmt.Println("listening")
	select {}
}

func receive(directory string) {
	for {
		var count, rounds int
		if _, err := fmt.Scanf("run %d %d\n", &count, &rounds); err == io.EOF {
			return
		} else {
			check(err)
		}
		path := filepath.Join(directory, strconv.Itoa(count))
		times := make([]interface{}, rounds)
		for i := range times {
			received := 0
			from := time.Now()
			err := backend.Receive(path, func(fd int, _ io.Reader) error {
				received++
				return syscall.Close(fd)
			})
			times[i] = time.Since(from).Nanoseconds()
			check(err)
			if received != count {
				log.Fatalf("received %d of %d descriptors", received, count)
			}
		}
		fmt.Println(times...)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
