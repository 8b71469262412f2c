// Command from_go is a web server that hands its listener to the process that
// comes after it: the Deno program beside it, or one of its own kind. Started
// while another one runs at the same control socket, it takes over from that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/graceful"
)

var (
	sock         = flag.String("graceful", "/tmp/graceful.sock", "control `path`, where the next process finds this one")
	addr         = flag.String("listen", "127.0.0.1:3333", "`host:port` where the first process listens")
	drainTimeout = flag.Duration("drain-timeout", 30*time.Second, "how long clients may take to leave")
)

// ready is what a process says that has received the listener and serves.
const ready = "ready"

var (
	leaving atomic.Bool  // Whether the clients are told to leave.
	conns   atomic.Int64 // How many are connected.
)

func main() {
	flag.Parse()
	log.SetOutput(os.Stdout)

	ln, serving, err := inherit()
	if err != nil {
		log.Fatalf("cannot take over: %v", err)
	}
	server := &http.Server{Handler: leave(http.HandlerFunc(answer)), ConnState: count}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(ln) }()
	serving()
	log.Printf("Go serves on %s", ln.Addr())

	// What is at the path belongs to a process that is leaving, or is gone.
	os.Remove(*sock)
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: *sock, Net: "unix"})
	if err != nil {
		log.Fatalf("cannot listen on %s: %v", *sock, err)
	}
	// By the time this one closes it, the path is the next process's.
	control.SetUnlinkOnClose(false)
	replaced := make(chan struct{}, 1)
	go graceful.Serve(control, handOver(ln, replaced))

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-replaced:
	case <-signals:
	case err := <-stopped:
		log.Fatalf("cannot serve any more: %v", err)
	}
	control.Close()
	log.Print("Go leaves")
	leaving.Store(true)
	// This ends accepting here; the socket listens on in the next process.
	ln.Close()
	<-stopped
	for end := time.Now().Add(*drainTimeout); conns.Load() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	log.Printf("Go has left; %d connections had not", conns.Load())
	ctx, cancel := context.WithTimeout(context.Background(), *drainTimeout)
	defer cancel()
	server.Shutdown(ctx)
}

// inherit receives the listener of the process that runs, or makes one if none
// does. That process goes on serving until serving is called.
func inherit() (ln *net.TCPListener, serving func(), err error) {
	var received net.Listener
	conn, err := net.Dial("unix", *sock)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		received, err = net.Listen("tcp", *addr)
		serving = func() {}
	} else if err == nil {
		err = graceful.ReceiveFrom(conn, func(fd int, _ io.Reader) (err error) {
			received, err = graceful.FdListener(fd)
			return err
		})
		serving = func() {
			io.WriteString(conn, ready)
			conn.Close()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	ln, ok := received.(*net.TCPListener)
	if !ok {
		return nil, nil, fmt.Errorf("received a %T", received)
	}
	return ln, serving, nil
}

// handOver sends the listener, and waits until the other process serves. One
// that hangs up without the word has failed, or only asked: this one goes on.
func handOver(ln *net.TCPListener, replaced chan<- struct{}) graceful.Handler {
	var one sync.Mutex
	return graceful.HandlerFunc(func(conn net.Conn, _ graceful.ResponseWriter) {
		one.Lock()
		defer one.Unlock()
		// SendTo sends at once; what a handler writes to its ResponseWriter is
		// sent when it returns. SendListener would ask the listener for its file
		// as well, which makes the socket blocking, for every process.
		raw, err := ln.SyscallConn()
		if err == nil {
			controlled := raw.Control(func(fd uintptr) {
				err = graceful.SendTo(conn, int(fd), nil)
			})
			err = errors.Join(controlled, err)
		}
		word := make([]byte, len(ready))
		if err == nil {
			_, err = io.ReadFull(conn, word)
		}
		if err == nil && string(word) != ready {
			err = errors.New("it does not say that it does")
		}
		if err != nil {
			log.Printf("the next process does not serve: %v", err)
			return
		}
		select {
		case replaced <- struct{}{}:
		default:
		}
	})
}

// leave tells clients to leave: with the answer, so that none of them has the
// next request on its way when the connection closes. (Shutdown closes idle
// connections at once, and loses the requests that are on their way on them.)
func leave(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		conns.Add(-1)
	}
}

func answer(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "Hello from Go, process %d!\n", os.Getpid())
}
