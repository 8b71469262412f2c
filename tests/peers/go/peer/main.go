// Command peer passes descriptors on the requests that it reads from its
// standard input.
//
// A request is a JSON object with an "id" and the name of the request as "do".
// Its answer, a line of JSON on standard output, has the same id, and an
// "error" if the request failed. Requests run concurrently. The peer keeps open
// listeners, connections, datagram sockets and files, by the names that the
// requests give them. The process exits at the end of its input.
package main

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"graceful.test/peer/backend"
)

type request struct {
	ID int    `json:"id"`
	Do string `json:"do"`

	// Name is the name of the listener, connection, socket or file to use or
	// to open. Over is the name of the connection or listener to use for it,
	// unless there is a Path to listen at or to connect to.
	Name string `json:"name"`
	Over string `json:"over"`
	Path string `json:"path"`

	// Kind is "tcp listener", "file" or another kind of the request open; At is its
	// address or path.
	Kind string `json:"kind"`
	At   string `json:"at"`

	// Data is the content to write or to answer with, in hexadecimal digits.
	Data string `json:"data"`

	// Items are the descriptors to send.
	Items []item `json:"items"`

	// N is the number of bytes to read, or of messages to receive.
	N int `json:"n"`

	// Keep keeps received descriptors open; Refuse is the number of the record
	// for which the callback returns an error.
	Keep   bool `json:"keep"`
	Refuse int  `json:"refuse"`
}

// item is a descriptor to send, by its name, and its meta.
type item struct {
	Name string          `json:"name"`
	Meta json.RawMessage `json:"meta"`
}

type answer map[string]interface{}

var (
	mu     sync.Mutex
	opened = map[string]interface{}{}
	logged = []string{}
)

func main() {
	gob.Register(map[string]interface{}{})
	gob.Register([]interface{}{})

	var output sync.Mutex
	encoder := json.NewEncoder(os.Stdout)
	write := func(a answer) {
		output.Lock()
		defer output.Unlock()
		encoder.Encode(a)
	}
	write(answer{"id": 0, "backend": backend.Name, "go": runtime.Version()})
	for decoder := json.NewDecoder(os.Stdin); ; {
		var r request
		if err := decoder.Decode(&r); err == io.EOF {
			return
		} else if err != nil {
			panic(err)
		}
		do, ok := requests[r.Do]
		if !ok {
			panic(fmt.Sprintf("unknown request %q", r.Do))
		}
		go func() {
			a, err := do(&r)
			if a == nil {
				a = answer{}
			}
			a["id"] = r.ID
			if err != nil {
				a["error"] = err.Error()
			}
			write(a)
		}()
	}
}

var requests = map[string]func(*request) (answer, error){
	"open":    open,
	"accept":  accept,
	"close":   shut,
	"read":    read,
	"write":   write,
	"serve":   serve,
	"log":     func(*request) (answer, error) { return answer{"log": logged}, nil },
	"send":    send,
	"message": message,
	"receive": receive,

	"serve http":    serveHTTP,
	"make blocking": makeBlocking,
}

func keep(name string, v interface{}) {
	mu.Lock()
	defer mu.Unlock()
	opened[name] = v
}

func get(name string) interface{} {
	mu.Lock()
	defer mu.Unlock()
	v, ok := opened[name]
	if !ok {
		panic(fmt.Sprintf("%q is not open", name))
	}
	return v
}

// open opens a listener, a connection, a socket or a file, at an address or a path.
func open(r *request) (answer, error) {
	var v interface{}
	var err error
	switch r.Kind {
	case "tcp listener":
		v, err = net.Listen("tcp", "127.0.0.1:0")
	case "unix listener":
		v, err = net.Listen("unix", r.At)
	case "udp socket":
		v, err = net.ListenPacket("udp", "127.0.0.1:0")
	case "tcp connection":
		v, err = net.Dial("tcp", r.At)
	case "unix connection":
		v, err = net.Dial("unix", r.At)
	case "file":
		v, err = os.Open(r.At)
	default:
		panic(fmt.Sprintf("cannot open a %q", r.Kind))
	}
	if err != nil {
		return nil, err
	}
	keep(r.Name, v)
	return describe(v), nil
}

// accept accepts a connection over a listener.
func accept(r *request) (answer, error) {
	conn, err := get(r.Over).(net.Listener).Accept()
	if err != nil {
		return nil, err
	}
	keep(r.Name, conn)
	return describe(conn), nil
}

func shut(r *request) (answer, error) {
	return nil, get(r.Name).(io.Closer).Close()
}

// read reads exactly n bytes from a connection, or a datagram from a socket.
func read(r *request) (answer, error) {
	v := get(r.Name)
	if socket, ok := v.(*net.UDPConn); ok {
		buffer := make([]byte, 65536)
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return nil, err
		}
		return answer{"data": hex.EncodeToString(buffer[:n]), "from": from.String()}, nil
	}
	buffer := make([]byte, r.N)
	n, err := io.ReadFull(v.(io.Reader), buffer)
	return answer{"data": hex.EncodeToString(buffer[:n])}, err
}

func write(r *request) (answer, error) {
	data, err := hex.DecodeString(r.Data)
	if err != nil {
		return nil, err
	}
	_, err = get(r.Name).(io.Writer).Write(data)
	return nil, err
}

// serve sends the items to every client at the path.
func serve(r *request) (answer, error) {
	ln, err := net.Listen("unix", r.Path)
	if err != nil {
		return nil, err
	}
	keep(r.Name, ln)
	handlers := make([]backend.Handler, len(r.Items))
	for i, item := range r.Items {
		meta := writer(item.Meta)
		switch v := get(item.Name).(type) {
		case net.Listener:
			handlers[i] = backend.ListenerHandler(v, meta)
		case *net.UDPConn:
			// Before net.Conn: a UDPConn is a net.Conn too. (And a unix connection
			// is a net.PacketConn too.)
			handlers[i] = backend.PacketConnHandler(v, meta)
		case net.Conn:
			handlers[i] = backend.ConnHandler(v, meta)
		case *os.File:
			handlers[i] = backend.FileHandler(v, meta)
		}
	}
	server := &backend.Server{
		Handler: backend.SequenceHandler(handlers...),
		Logger: backend.LoggerFunc(nil, nil, func(format string, v ...interface{}) {
			mu.Lock()
			defer mu.Unlock()
			logged = append(logged, fmt.Sprintf(format, v...))
		}),
	}
	go server.Serve(ln)
	return nil, nil
}

// send sends the items over a connection, one message each.
func send(r *request) (answer, error) {
	for _, item := range r.Items {
		fd, done, err := descriptor(get(item.Name))
		if err != nil {
			return nil, err
		}
		if r.Path != "" {
			err = backend.Send(r.Path, fd, writer(item.Meta))
		} else {
			err = backend.SendTo(get(r.Over).(net.Conn), fd, writer(item.Meta))
		}
		done()
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// message sends any data with the descriptors of the items, as one message.
func message(r *request) (answer, error) {
	data, err := hex.DecodeString(r.Data)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, item := range r.Items {
		fd, done, err := descriptor(get(item.Name))
		if err != nil {
			return nil, err
		}
		defer done()
		fds = append(fds, fd)
	}
	n, _, err := get(r.Over).(*net.UnixConn).WriteMsgUnix(data, syscall.UnixRights(fds...), nil)
	return answer{"n": n}, err
}

var errRefused = errors.New("the callback refuses")

// receive describes the descriptors that arrive, and closes them, or with keep
// names them "r0", "r1", ... It receives all messages, or n. The callback
// returns an error for descriptor number refuse.
func receive(r *request) (answer, error) {
	records := []answer{}
	callback := func(fd int, meta io.Reader) error {
		record := answer{}
		if meta != nil {
			content, err := io.ReadAll(meta)
			if err != nil {
				return err
			}
			record["meta"] = hex.EncodeToString(content)
			if decoded, err := backend.MetaFrom(bytes.NewReader(content)); err == nil {
				record["values"] = report(map[string]interface{}(decoded))
			}
		}
		v, err := adopted(fd)
		if err != nil {
			return err
		}
		for key, value := range describe(v) {
			record[key] = value
		}
		if r.Keep {
			keep(fmt.Sprintf("r%d", len(records)), v)
		} else {
			v.(io.Closer).Close()
		}
		records = append(records, record)
		if len(records) == r.Refuse {
			return errRefused
		}
		return nil
	}
	var err error
	if r.Path != "" {
		err = backend.Receive(r.Path, callback)
	} else if r.N > 0 {
		for i := 0; i < r.N && err == nil; i++ {
			err = backend.ReceiveFrom(get(r.Over).(net.Conn), callback)
		}
	} else {
		err = backend.ReceiveAllFrom(get(r.Over).(net.Conn), callback)
	}
	return answer{"records": records}, err
}

// serveHTTP answers every request over a listener with the data.
func serveHTTP(r *request) (answer, error) {
	text, err := hex.DecodeString(r.Data)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(text)
	})}
	go server.Serve(get(r.Name).(net.Listener))
	return nil, nil
}

// makeBlocking makes a socket blocking, as sending it does: by asking for its
// file's descriptor.
func makeBlocking(r *request) (answer, error) {
	_, done, err := descriptor(get(r.Name))
	if err != nil {
		return nil, err
	}
	done()
	return nil, nil
}

// descriptor returns the number of a descriptor that stays open until done is
// called. Fd() of a socket's file makes the socket blocking.
func descriptor(v interface{}) (fd int, done func(), err error) {
	if file, ok := v.(*os.File); ok {
		return int(file.Fd()), func() {}, nil
	}
	file, err := v.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return 0, nil, err
	}
	return int(file.Fd()), func() { file.Close() }, nil
}

// adopted makes a listener, a connection, a socket or a file of a descriptor.
func adopted(fd int) (interface{}, error) {
	kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err == syscall.ENOTSOCK {
		return os.NewFile(uintptr(fd), ""), nil
	}
	if err != nil {
		return nil, err
	}
	if kind == syscall.SOCK_DGRAM {
		return backend.FdPacketConn(fd)
	}
	listens, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	if err != nil {
		return nil, err
	}
	if listens != 0 {
		return backend.FdListener(fd)
	}
	return backend.FdConn(fd)
}

func describe(v interface{}) answer {
	switch v := v.(type) {
	case net.Listener:
		return answer{"kind": "listener", "local": v.Addr().String()}
	case *net.UDPConn:
		return answer{"kind": "datagram", "local": v.LocalAddr().String()}
	case net.Conn:
		return answer{
			"kind": "connection", "local": v.LocalAddr().String(), "peer": v.RemoteAddr().String(),
		}
	case *os.File:
		content := make([]byte, 100)
		n, _ := v.ReadAt(content, 0)
		return answer{"kind": "file", "content": string(content[:n])}
	}
	panic(fmt.Sprintf("cannot describe a %T", v))
}

// writer makes a meta: null, the bytes of a string of hexadecimal digits, or a
// map of values.
func writer(raw json.RawMessage) io.WriterTo {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if raw[0] == '"' {
		content, err := hex.DecodeString(parsed[string](raw))
		if err != nil {
			panic(err)
		}
		return rewound(content)
	}
	return backend.Meta(mapOf(raw))
}

// rewound is a meta that can be written to many clients.
type rewound []byte

func (r rewound) WriteTo(w io.Writer) (int64, error) {
	return bytes.NewReader(r).WriteTo(w)
}

func parsed[T any](raw json.RawMessage) (v T) {
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(fmt.Sprintf("%s: %v", raw, err))
	}
	return v
}

func mapOf(raw json.RawMessage) map[string]interface{} {
	m := map[string]interface{}{}
	for key, value := range parsed[map[string]json.RawMessage](raw) {
		m[key] = valueOf(value)
	}
	return m
}

// scalars has the types of values that are not lists or maps, by name.
var scalars = map[string]reflect.Type{}

func init() {
	for _, v := range []interface{}{
		int(0), int8(0), int16(0), int32(0), int64(0),
		uint(0), uint8(0), uint16(0), uint32(0), uint64(0), uintptr(0),
		float32(0), float64(0), false, "",
	} {
		t := reflect.TypeOf(v)
		scalars[t.Name()] = t
	}
}

// valueOf makes a value from ["the name of its type", its text or its elements].
func valueOf(raw json.RawMessage) interface{} {
	pair := parsed[[]json.RawMessage](raw)
	name := parsed[string](pair[0])
	switch name {
	case "nil":
		return nil
	case "[]uint8":
		content, err := hex.DecodeString(parsed[string](pair[1]))
		if err != nil {
			panic(err)
		}
		return content
	case "map[string]interface {}":
		return mapOf(pair[1])
	case "[]interface {}":
		elements := parsed[[]json.RawMessage](pair[1])
		list := make([]interface{}, len(elements))
		for i, element := range elements {
			list[i] = valueOf(element)
		}
		return list
	}
	if len(name) > 2 && name[:2] == "[]" {
		texts := parsed[[]string](pair[1])
		list := reflect.MakeSlice(reflect.SliceOf(scalars[name[2:]]), len(texts), len(texts))
		for i, text := range texts {
			setScalar(list.Index(i), text)
		}
		return list.Interface()
	}
	v := reflect.New(scalars[name]).Elem()
	setScalar(v, parsed[string](pair[1]))
	return v.Interface()
}

func setScalar(v reflect.Value, text string) {
	var err error
	switch {
	case v.CanInt():
		var n int64
		n, err = strconv.ParseInt(text, 10, 64)
		v.SetInt(n)
	case v.CanUint():
		var n uint64
		n, err = strconv.ParseUint(text, 10, 64)
		v.SetUint(n)
	case v.CanFloat():
		var n float64
		n, err = strconv.ParseFloat(text, 64)
		v.SetFloat(n)
	case v.Kind() == reflect.Bool:
		v.SetBool(text == "true")
	default:
		v.SetString(text)
	}
	if err != nil {
		panic(err)
	}
}

// report is the reverse of valueOf; of a map it returns the values.
func report(v interface{}) interface{} {
	m, ok := v.(map[string]interface{})
	if !ok {
		return reportValue(v)
	}
	values := map[string]interface{}{}
	for key, value := range m {
		values[key] = reportValue(value)
	}
	return values
}

func reportValue(v interface{}) []interface{} {
	name := fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case nil:
		return []interface{}{"nil"}
	case []byte:
		return []interface{}{name, hex.EncodeToString(v)}
	case map[string]interface{}:
		return []interface{}{name, report(v)}
	case []interface{}:
		list := make([]interface{}, len(v))
		for i, element := range v {
			list[i] = reportValue(element)
		}
		return []interface{}{name, list}
	}
	if list := reflect.ValueOf(v); list.Kind() == reflect.Slice {
		texts := make([]string, list.Len())
		for i := range texts {
			texts[i] = fmt.Sprint(list.Index(i))
		}
		return []interface{}{name, texts}
	}
	return []interface{}{name, fmt.Sprint(v)}
}
