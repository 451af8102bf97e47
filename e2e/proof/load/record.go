// Package load sends requests at a steady rate to Services, by clients of four kinds, and records what becomes of each.
package load

import "time"

// A Target is a Service.
type Target struct {
	Side, Server string
	IP           string
	Stops        string        // what SIGTERM does to its servers: StopAtOnce, StopShutdown or StopDrain
	Recycles     time.Duration // age at which its servers end connections; 0 means never
}

// What SIGTERM does, as the flag -stop of a server has it.
const (
	StopAtOnce   = "at-once"
	StopShutdown = "shutdown"
	StopDrain    = "drain"
)

// A Record is one request.
type Record struct {
	ID            string // of the request, which no other has
	Due           int64  // microseconds since 1970 at which it was to start
	Target        int    // index into Config.Targets
	Client        int    // index into Config.Clients
	Latency       int64  // microseconds from Due to the end
	Opened        int64  // microseconds since 1970 at which its connection was established; 0 if it had none
	Pod           string // that answered on this connection, now or before; empty if none ever has
	Cause, Detail string // of a failure
}

// End returns when it was answered or known to have failed.
func (r *Record) End() time.Time { return time.UnixMicro(r.Due + r.Latency) }

// RequestID is the header of HTTP, and the metadata of gRPC, with the id of a request.
const RequestID = "request-id"

// RequestTimeout is the time within which an answer has to be there, counted from when the request was due.
const RequestTimeout = 5 * time.Second

// The kinds of clients.
const (
	NewConnection = "new connection" // for each request, HTTP/1.1
	HTTP1         = "HTTP/1.1"       // persistent connections
	HTTP2         = "HTTP/2"
	GRPC          = "gRPC"
)

// The causes of failures.
const (
	CauseRefused   = "connection refused"
	causeNoRoute   = "no route to host"
	CauseConnect   = "no connection within 5 s"
	CauseReset     = "connection reset under a request"
	CauseClosed    = "connection closed under a request"
	causeLost      = "connection given up, pings unanswered"
	CauseTimeout   = "no answer within 5 s"
	causeStatus    = "an error as answer"
	CauseUndone    = "not processed before the server drained (GOAWAY)"
	causeOtherConn = "no connection"
	causeOther     = "other"
)
