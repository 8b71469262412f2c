// Command from_go is a web server that passes its listener to its successor: the
// Deno program main.ts, or another process of this program. Started while a
// server runs at the same control socket, it takes over from that server.
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
	sock         = flag.String("graceful", "/tmp/graceful.sock", "control `path`, where the successor finds this process")
	addr         = flag.String("listen", "127.0.0.1:3333", "`host:port` where the first process listens")
	drainTimeout = flag.Duration("drain-timeout", 30*time.Second, "how long clients may stay connected")
)

// ready is sent by a successor that has received the listener and serves.
const ready = "ready"

var (
	draining atomic.Bool  // Whether answers close their connections.
	conns    atomic.Int64 // The number of connected clients.
)

func main() {
	flag.Parse()
	log.SetOutput(os.Stdout)

	ln, serving, err := inherit()
	if err != nil {
		log.Fatalf("cannot take over: %v", err)
	}
	server := &http.Server{Handler: closing(http.HandlerFunc(answer)), ConnState: count}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(ln) }()
	serving()
	log.Printf("Go serves on %s", ln.Addr())

	// The path belongs to the predecessor, which drains or has gone.
	os.Remove(*sock)
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: *sock, Net: "unix"})
	if err != nil {
		log.Fatalf("cannot listen on %s: %v", *sock, err)
	}
	// When this process closes it, the path is already the successor's.
	control.SetUnlinkOnClose(false)
	replaced := make(chan struct{}, 1)
	go graceful.Serve(control, handOver(ln, replaced))

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-replaced:
	case <-signals:
	case err := <-stopped:
		log.Fatalf("cannot serve: %v", err)
	}
	control.Close()
	log.Print("Go drains")
	draining.Store(true)
	// Ends accepting in this process; the socket listens on in the successor.
	ln.Close()
	<-stopped
	for end := time.Now().Add(*drainTimeout); conns.Load() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	log.Printf("Go has drained; %d connections were closed", conns.Load())
	ctx, cancel := context.WithTimeout(context.Background(), *drainTimeout)
	defer cancel()
	server.Shutdown(ctx)
}

// inherit receives the listener of the running process, or makes one if none is
// running. The predecessor goes on serving until serving is called.
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

// handOver sends the listener, and waits until the successor serves. A client
// that closes without "ready" has failed, or is no successor: this process goes on.
func handOver(ln *net.TCPListener, replaced chan<- struct{}) graceful.Handler {
	var one sync.Mutex
	return graceful.HandlerFunc(func(conn net.Conn, _ graceful.ResponseWriter) {
		one.Lock()
		defer one.Unlock()
		// SendTo sends at once; a ResponseWriter sends when its handler returns.
		// SendListener would call File() of the listener, too, which makes the
		// socket blocking, in every process.
		raw, err := ln.SyscallConn()
		if err == nil {
			controlled := raw.Control(func(fd uintptr) {
				err = graceful.SendTo(conn, int(fd), nil)
			})
			err = errors.Join(controlled, err)
		}
		answer := make([]byte, len(ready))
		if err == nil {
			_, err = io.ReadFull(conn, answer)
		}
		if err == nil && string(answer) != ready {
			err = errors.New("it did not send \"ready\"")
		}
		if err != nil {
			log.Printf("the successor does not serve: %v", err)
			return
		}
		select {
		case replaced <- struct{}{}:
		default:
		}
	})
}

// closing adds "Connection: close" to the answers while the process drains: the
// client sends no further request before the connection closes. (Shutdown closes
// idle connections at once, and loses the requests that are on their way.)
func closing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// count counts the connections.
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
