//go:build plain

// Package backend passes descriptors for the Go programs of the tests. It is
// the Go library itself, or, built with the tag plain, a stand-in for it that
// needs only Go's standard library.
package backend

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// Name is the name of the implementation.
const Name = "the standard library of Go"

const (
	// The default sizes of the buffers of the library's client and server.
	dataBytes    = 4096
	controlBytes = 4096

	headerBytes = 4
)

// The errors of the library.
var (
	ErrEmptyControlMessage  = errors.New("a message without a control message")
	ErrEmptyFileDescriptors = errors.New("a control message without descriptors")
	ErrLongWrite            = errors.New("a meta that no message has room for")
	ErrNotFiler             = errors.New("not a value with a file")
	ErrNotUnixConn          = errors.New("not a unix connection")
	ErrNotUnixListener      = errors.New("not a unix listener")
)

// ReceiveCallback is called with each descriptor, which it owns, and with its
// meta, or nil.
type ReceiveCallback func(fd int, meta io.Reader) error

// Client receives, into buffers of these sizes or of 4096 bytes.
type Client struct {
	MsgBufferSize, OOBBufferSize int
}

// Receive connects to addr and calls cb for each descriptor to the end.
func Receive(addr string, cb ReceiveCallback) error {
	return (&Client{}).Receive(addr, cb)
}

// ReceiveFrom calls cb for each descriptor of one message.
func ReceiveFrom(conn net.Conn, cb ReceiveCallback) error {
	return (&Client{}).ReceiveFrom(conn, cb)
}

// ReceiveAllFrom calls cb for each descriptor to the end.
func ReceiveAllFrom(conn net.Conn, cb ReceiveCallback) error {
	return (&Client{}).ReceiveAllFrom(conn, cb)
}

// Receive connects to addr and calls cb for each descriptor to the end.
func (c *Client) Receive(addr string, cb ReceiveCallback) error {
	conn, err := net.Dial("unix", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.ReceiveAllFrom(conn, cb)
}

// ReceiveAllFrom calls cb for each descriptor to the end.
func (c *Client) ReceiveAllFrom(conn net.Conn, cb ReceiveCallback) error {
	for {
		err := c.ReceiveFrom(conn, cb)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ReceiveFrom reads one message, which must be whole records, and calls cb for
// each. It closes the descriptors that cb was not called for.
func (c *Client) ReceiveFrom(conn net.Conn, cb ReceiveCallback) error {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ErrNotUnixConn
	}
	data := make([]byte, or(c.MsgBufferSize, dataBytes))
	control := make([]byte, or(c.OOBBufferSize, controlBytes))
	n, controln, flags, _, err := unix.ReadMsgUnix(data, control)
	var ended *net.OpError
	if errors.As(err, &ended) && ended.Err == io.EOF {
		return io.EOF
	}
	if err != nil {
		return err
	}
	fds, err := rights(control[:controln])
	defer func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}()
	if err != nil {
		return err
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return errors.New("the kernel dropped descriptors")
	}
	if len(fds) == 0 {
		return ErrEmptyControlMessage
	}
	rest := data[:n]
	for len(fds) > 0 {
		if len(rest) < headerBytes {
			return io.ErrUnexpectedEOF
		}
		length := int(binary.LittleEndian.Uint32(rest))
		rest = rest[headerBytes:]
		if length > len(rest) {
			return io.ErrUnexpectedEOF
		}
		var meta io.Reader
		if length > 0 {
			meta = bytes.NewReader(rest[:length])
		}
		fd := fds[0]
		fds, rest = fds[1:], rest[length:]
		if err := cb(fd, meta); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes after the last record", len(rest))
	}
	return nil
}

func rights(control []byte) ([]int, error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		some, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, some...)
	}
	return fds, nil
}

// Logger receives the messages of a handler.
type Logger interface {
	Debugf(string, ...interface{})
	Infof(string, ...interface{})
	Errorf(string, ...interface{})
}

// LoggerFunc makes a Logger of functions, of which any may be nil.
func LoggerFunc(debugf, infof, errorf func(string, ...interface{})) Logger {
	return &funcLogger{debugf, infof, errorf}
}

type funcLogger struct {
	debugf, infof, errorf func(string, ...interface{})
}

func (l *funcLogger) Debugf(s string, v ...interface{}) { call(l.debugf, s, v) }
func (l *funcLogger) Infof(s string, v ...interface{})  { call(l.infof, s, v) }
func (l *funcLogger) Errorf(s string, v ...interface{}) { call(l.errorf, s, v) }

func call(f func(string, ...interface{}), s string, v []interface{}) {
	if f != nil {
		f(s, v...)
	}
}

// ResponseWriter collects descriptors. It sends them when a message is full and
// when the handler returns: they must stay open until then.
type ResponseWriter interface {
	Logger
	Write(fd int, meta io.WriterTo) error
}

// Handler writes descriptors for one client.
type Handler interface {
	Handle(net.Conn, ResponseWriter)
}

// HandlerFunc is a Handler.
type HandlerFunc func(net.Conn, ResponseWriter)

// Handle calls h.
func (h HandlerFunc) Handle(conn net.Conn, resp ResponseWriter) { h(conn, resp) }

// CallbackHandler is a Handler that writes nothing.
type CallbackHandler func()

// Handle calls h.
func (h CallbackHandler) Handle(net.Conn, ResponseWriter) { h() }

// SequenceHandler runs one handler after the other.
func SequenceHandler(handlers ...Handler) Handler {
	return HandlerFunc(func(conn net.Conn, resp ResponseWriter) {
		for _, handler := range handlers {
			handler.Handle(conn, resp)
		}
	})
}

// ListenerHandler writes a listener.
func ListenerHandler(ln net.Listener, meta io.WriterTo) Handler {
	return writing(func(resp ResponseWriter) error { return SendListener(resp, ln, meta) })
}

// ConnHandler writes a connection.
func ConnHandler(conn net.Conn, meta io.WriterTo) Handler {
	return writing(func(resp ResponseWriter) error { return SendConn(resp, conn, meta) })
}

// PacketConnHandler writes a datagram socket.
func PacketConnHandler(conn net.PacketConn, meta io.WriterTo) Handler {
	return writing(func(resp ResponseWriter) error { return SendPacketConn(resp, conn, meta) })
}

// FileHandler writes a file.
func FileHandler(file *os.File, meta io.WriterTo) Handler {
	return writing(func(resp ResponseWriter) error { return SendFile(resp, file, meta) })
}

// FdHandler writes a descriptor.
func FdHandler(fd int, meta io.WriterTo) Handler {
	return writing(func(resp ResponseWriter) error { return resp.Write(fd, meta) })
}

func writing(write func(ResponseWriter) error) Handler {
	return HandlerFunc(func(_ net.Conn, resp ResponseWriter) {
		if err := write(resp); err != nil {
			resp.Errorf("cannot send: %v", err)
		}
	})
}

// SendListener writes a listener.
func SendListener(resp ResponseWriter, ln net.Listener, meta io.WriterTo) error {
	return sendFiled(resp, ln, meta)
}

// SendConn writes a connection.
func SendConn(resp ResponseWriter, conn net.Conn, meta io.WriterTo) error {
	return sendFiled(resp, conn, meta)
}

// SendPacketConn writes a datagram socket.
func SendPacketConn(resp ResponseWriter, conn net.PacketConn, meta io.WriterTo) error {
	return sendFiled(resp, conn, meta)
}

// SendFile writes a file. Fd() of a socket's file makes the socket blocking, in
// every process that has a descriptor of it.
func SendFile(resp ResponseWriter, file *os.File, meta io.WriterTo) error {
	return resp.Write(int(file.Fd()), meta)
}

func sendFiled(resp ResponseWriter, v interface{}, meta io.WriterTo) error {
	filer, ok := v.(interface{ File() (*os.File, error) })
	if !ok {
		return ErrNotFiler
	}
	file, err := filer.File()
	if err != nil {
		return err
	}
	err = SendFile(resp, file, meta)
	if own, ok := resp.(*response); ok {
		own.files = append(own.files, file)
	}
	return err
}

// Send connects to addr and sends a descriptor.
func Send(addr string, fd int, meta io.WriterTo) error {
	conn, err := net.Dial("unix", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return SendTo(conn, fd, meta)
}

// SendTo sends a descriptor.
func SendTo(conn net.Conn, fd int, meta io.WriterTo) error {
	return sendNow(conn, func(resp ResponseWriter) error { return resp.Write(fd, meta) })
}

// SendListenerTo sends a listener.
func SendListenerTo(conn net.Conn, ln net.Listener, meta io.WriterTo) error {
	return sendNow(conn, func(resp ResponseWriter) error { return SendListener(resp, ln, meta) })
}

// SendConnTo sends conn over dst.
func SendConnTo(dst, conn net.Conn, meta io.WriterTo) error {
	return sendNow(dst, func(resp ResponseWriter) error { return SendConn(resp, conn, meta) })
}

// SendFileTo sends a file.
func SendFileTo(conn net.Conn, file *os.File, meta io.WriterTo) error {
	return sendNow(conn, func(resp ResponseWriter) error { return SendFile(resp, file, meta) })
}

func sendNow(conn net.Conn, write func(ResponseWriter) error) error {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ErrNotUnixConn
	}
	resp := &response{Logger: LoggerFunc(nil, nil, nil), conn: unix, room: dataBytes}
	defer resp.close()
	if err := write(resp); err != nil {
		return err
	}
	return resp.flush()
}

// Server runs a handler for each client.
type Server struct {
	MsgBufferSize, OOBBufferSize int
	Handler                      Handler
	Logger                       interface{}
}

// ListenAndServe runs handler for each client of addr.
func ListenAndServe(addr string, handler Handler) error {
	return (&Server{Handler: handler}).ListenAndServe(addr)
}

// Serve runs handler for each client of ln.
func Serve(ln net.Listener, handler Handler) error {
	return (&Server{Handler: handler}).Serve(ln)
}

// ListenAndServe runs the handler for each client of addr.
func (s *Server) ListenAndServe(addr string) error {
	ln, err := net.Listen("unix", addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	return s.Serve(ln)
}

// Serve runs the handler for each client of ln.
func (s *Server) Serve(ln net.Listener) error {
	unix, ok := ln.(*net.UnixListener)
	if !ok {
		return ErrNotUnixListener
	}
	for {
		conn, err := unix.AcceptUnix()
		if err != nil {
			return err
		}
		go s.converse(conn)
	}
}

func (s *Server) converse(conn *net.UnixConn) {
	defer conn.Close()
	logger, ok := s.Logger.(Logger)
	if !ok {
		logger = LoggerFunc(nil, nil, nil)
	}
	resp := &response{Logger: logger, conn: conn, room: or(s.MsgBufferSize, dataBytes)}
	defer resp.close()
	s.Handler.Handle(conn, resp)
	if err := resp.flush(); err != nil {
		logger.Errorf("cannot send: %v", err)
	}
}

// maxDescriptors is the number of descriptors that the library sends in a
// message by default.
var maxDescriptors = controlBytes / syscall.CmsgSpace(4)

// response collects one message at a time.
type response struct {
	Logger
	conn *net.UnixConn
	room int

	data  bytes.Buffer
	fds   []int
	files []*os.File
}

// Write adds a record; if the message has no room for it, Write sends the
// message first.
func (r *response) Write(fd int, meta io.WriterTo) error {
	var body bytes.Buffer
	if meta != nil {
		if _, err := meta.WriteTo(&body); err != nil {
			return err
		}
	}
	size := headerBytes + body.Len()
	if size > r.room {
		return ErrLongWrite
	}
	if len(r.fds) == maxDescriptors || r.data.Len()+size > r.room {
		if err := r.flush(); err != nil {
			return err
		}
	}
	binary.Write(&r.data, binary.LittleEndian, uint32(body.Len()))
	r.data.Write(body.Bytes())
	r.fds = append(r.fds, fd)
	return nil
}

func (r *response) flush() error {
	if len(r.fds) == 0 {
		return nil
	}
	data, control := r.data.Bytes(), syscall.UnixRights(r.fds...)
	n, controln, err := r.conn.WriteMsgUnix(data, control, nil)
	if err == nil && (n < len(data) || controln < len(control)) {
		err = io.ErrShortWrite
	}
	r.data.Reset()
	r.fds = r.fds[:0]
	return err
}

func (r *response) close() {
	for _, file := range r.files {
		file.Close()
	}
}

// Meta is sent as a gob.
type Meta map[string]interface{}

// MetaFrom decodes a Meta.
func MetaFrom(r io.Reader) (Meta, error) {
	m := make(Meta)
	_, err := m.ReadFrom(r)
	return m, err
}

// WriteTo encodes the Meta.
func (m Meta) WriteTo(w io.Writer) (int64, error) {
	var buffer bytes.Buffer
	if err := gob.NewEncoder(&buffer).Encode(m); err != nil {
		return 0, err
	}
	return buffer.WriteTo(w)
}

// ReadFrom decodes into the Meta.
func (m *Meta) ReadFrom(r io.Reader) (int64, error) {
	content, err := io.ReadAll(r)
	if err == nil {
		err = gob.NewDecoder(bytes.NewReader(content)).Decode(m)
	}
	return int64(len(content)), err
}

// FdListener makes a listener of a descriptor, and closes the descriptor.
func FdListener(fd int) (net.Listener, error) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	return net.FileListener(file)
}

// FdConn makes a connection of a descriptor, and closes the descriptor.
func FdConn(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	return net.FileConn(file)
}

// FdPacketConn makes a datagram socket of a descriptor, and closes the
// descriptor.
func FdPacketConn(fd int) (net.PacketConn, error) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	return net.FilePacketConn(file)
}

func or(n, otherwise int) int {
	if n != 0 {
		return n
	}
	return otherwise
}
