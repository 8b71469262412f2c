//go:build !plain

// Package backend passes descriptors for the Go programs of the tests. It is
// the Go library itself, or, built with the tag plain, a stand-in for it that
// needs only Go's standard library.
package backend

import "github.com/gobwas/graceful"

// Name is the name of the implementation.
const Name = "github.com/gobwas/graceful"

// The types of the library.
type (
	CallbackHandler = graceful.CallbackHandler
	Client          = graceful.Client
	Handler         = graceful.Handler
	HandlerFunc     = graceful.HandlerFunc
	Logger          = graceful.Logger
	Meta            = graceful.Meta
	ReceiveCallback = graceful.ReceiveCallback
	ResponseWriter  = graceful.ResponseWriter
	Server          = graceful.Server
)

// The functions and errors of the library.
var (
	ErrEmptyControlMessage  = graceful.ErrEmptyControlMessage
	ErrEmptyFileDescriptors = graceful.ErrEmptyFileDescriptors
	ErrLongWrite            = graceful.ErrLongWrite
	ErrNotFiler             = graceful.ErrNotFiler
	ErrNotUnixConn          = graceful.ErrNotUnixConn
	ErrNotUnixListener      = graceful.ErrNotUnixListener

	ListenAndServe = graceful.ListenAndServe
	Serve          = graceful.Serve

	Receive        = graceful.Receive
	ReceiveAllFrom = graceful.ReceiveAllFrom
	ReceiveFrom    = graceful.ReceiveFrom

	ConnHandler       = graceful.ConnHandler
	FdHandler         = graceful.FdHandler
	FileHandler       = graceful.FileHandler
	ListenerHandler   = graceful.ListenerHandler
	PacketConnHandler = graceful.PacketConnHandler
	SequenceHandler   = graceful.SequenceHandler

	SendConn       = graceful.SendConn
	SendFile       = graceful.SendFile
	SendListener   = graceful.SendListener
	SendPacketConn = graceful.SendPacketConn

	// SendConnTo, SendFileTo and SendListenerTo of the library send nothing:
	// they never flush the record that they write.
	SendConnTo     = graceful.SendConnTo
	SendFileTo     = graceful.SendFileTo
	SendListenerTo = graceful.SendListenerTo

	Send   = graceful.Send
	SendTo = graceful.SendTo

	FdConn       = graceful.FdConn
	FdListener   = graceful.FdListener
	FdPacketConn = graceful.FdPacketConn

	LoggerFunc = graceful.LoggerFunc
	MetaFrom   = graceful.MetaFrom
)
