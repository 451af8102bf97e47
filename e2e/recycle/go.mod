// The proof of package recycle against real clients. A module of its own: what it needs is none of evenkeel's users' business.
module github.com/evenkeel/evenkeel/e2e/recycle

go 1.26.0

require (
	github.com/evenkeel/evenkeel v0.0.0
	github.com/google/go-cmp v0.7.0
	github.com/gorilla/websocket v1.5.3
	google.golang.org/grpc v1.85.0
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/evenkeel/evenkeel => ../..
