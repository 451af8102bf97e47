package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are handed out in blocks below the range from which systems pick the source ports of outgoing connections
// (Linux 32768, others 49152) and below the node ports (30000), so that a port stays ours while nobody listens on it:
// before a component has started, and while the API server is being restarted.
const (
	firstPort = 10000
	lastPort  = 29999
	blockSize = 8
)

// A portBlock is a few loopback ports. This process holds the first one open, which no other cluster can then take, and
// gives the others to components.
type portBlock struct {
	guard net.Listener
	next  int
	end   int
}

func reservePorts() (*portBlock, error) {
	blocks := (lastPort - firstPort + 1) / blockSize
	for range 200 {
		base := firstPort + blockSize*rand.IntN(blocks)
		guard, err := listen(base)
		if err != nil {
			continue
		}
		free := true
		for port := base + 1; port < base+blockSize && free; port++ {
			probe, err := listen(port)
			if free = err == nil; free {
				_ = probe.Close()
			}
		}
		if free {
			return &portBlock{guard: guard, next: base + 1, end: base + blockSize}, nil
		}
		_ = guard.Close()
	}
	return nil, fmt.Errorf("no %d free consecutive loopback ports between %d and %d in 200 attempts", blockSize, firstPort,
		lastPort)
}

// take hands out the next port of the block.
func (b *portBlock) take() string {
	if b.next == b.end {
		panic("cluster: more components than ports in a block")
	}
	b.next++
	return strconv.Itoa(b.next - 1)
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
