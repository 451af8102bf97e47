// Package nodes runs real Kubernetes nodes on one machine, without Docker and with nothing but
// Debian's containerd: each node is a process, mount and network namespace with kubelet,
// containerd, runc and kube-proxy of its own, and stands in a zone of its own. The control plane of
// package cluster and whoever uses this package stand in namespaces too, so that the machine's
// network stays as it is. It needs Linux and root.
//
// A program that uses it calls Main first, and Start within it:
//
//	func main() {
//		err := nodes.Main(prepare, run)
//		…
//	}
package nodes
