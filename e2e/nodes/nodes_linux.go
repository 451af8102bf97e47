package nodes

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/image"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// Clients is the name of the network namespace that clients run in: a node of its own with kube-proxy, and without a
// kubelet, so that no pod runs beside the clients.
const Clients = "clients"

// clientAddresses is how many source addresses there are for clients.
const clientAddresses = 16

// Modes of kube-proxy.
const (
	IPTables = "iptables"
	NFTables = "nftables"
)

// Config says what to start.
type Config struct {
	Count  int                 // nodes, 1 to 9, each in a zone of its own; 0 means 3
	Images []string            // files of images that all nodes have
	Flags  map[string][]string // more flags of the control plane's components, by name
	// ProxyMode is kube-proxy's: IPTables or NFTables; "" means IPTables.
	ProxyMode string
	// DualStack gives nodes, pods and Services that ask for it an IPv6 address beside the one of IPv4, which stays the
	// family of Services that don't ask.
	DualStack bool
	// where all programs' output goes and stays; "" means a directory that ends with the cluster
	LogDir string
	Log    io.Writer // progress, and the news that something ended by itself; nil discards it
}

// Cluster is a control plane with real nodes.
type Cluster struct {
	*cluster.Cluster
	// Names are the nodes' names, node1 to nodeN, in zone1 to zoneN.
	Names []string
	// ProxyMode is kube-proxy's.
	ProxyMode string

	config     Config
	kubeconfig string // for nodes
	running    map[string]*node
}

// A node is its first process.
type node struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// Prepare builds what Start needs, images of nodes included. It needs a network where modules
// aren't downloaded yet, and so belongs into the first argument of Main.
func Prepare(ctx context.Context, log io.Writer) error {
	_, err := cluster.Build(ctx, log, cluster.Etcd, cluster.APIServer, cluster.ControllerManager, cluster.Scheduler,
		cluster.Kubectl, cluster.Kubelet, cluster.KubeProxy)
	if err != nil {
		return err
	}
	file, module, err := pause()
	if err != nil {
		return err
	}
	return image.Write(ctx, file, image.Options{Module: module, Package: "./nodes/pause", Name: pauseImage,
		Program: "pause"})
}

// pause returns the file of the image of pods' sandboxes, and the directory of its module.
func pause() (file, module string, err error) {
	root, err := installation.Root()
	if err != nil {
		return "", "", err
	}
	module = filepath.Join(root, "e2e")
	return filepath.Join(module, "bin", "pause.tar"), module, nil
}

// Start starts the control plane and the nodes and waits until all are Ready. It works only within Main.
func Start(ctx context.Context, config Config) (_ *Cluster, err error) {
	if config.Count == 0 {
		config.Count = 3
	}
	if config.Count < 1 || config.Count > 9 {
		return nil, fmt.Errorf("%d nodes: allowed are 1 to 9", config.Count)
	}
	config.ProxyMode = cmp.Or(config.ProxyMode, IPTables)
	if config.ProxyMode != IPTables && config.ProxyMode != NFTables {
		return nil, fmt.Errorf("%q is not a mode of kube-proxy; allowed: %s, %s", config.ProxyMode, IPTables, NFTables)
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	file, _, err := pause()
	if err != nil {
		return nil, err
	}
	config.Images = append([]string{file}, config.Images...)
	// kube-proxy isn't here, so straight to the pods
	flags := map[string][]string{cluster.APIServer: {"--enable-aggregator-routing=true"}}
	if config.DualStack {
		flags[cluster.APIServer] = append(flags[cluster.APIServer], "--service-cluster-ip-range="+serviceCIDRs)
		if err := ip("addr add " + onLink(controlAddress6) + " dev br0"); err != nil {
			return nil, err
		}
	}
	for name, more := range config.Flags {
		flags[name] = append(flags[name], more...)
	}
	control, err := cluster.Start(ctx, cluster.Config{
		Components: []string{cluster.ControllerManager, cluster.Scheduler}, Flags: flags, Address: ControlAddress,
		LogDir: config.LogDir, Log: config.Log,
	})
	if err != nil {
		return nil, err
	}
	c := &Cluster{Cluster: control, ProxyMode: config.ProxyMode, config: config, running: map[string]*node{},
		kubeconfig: filepath.Join(control.Dir, "nodes.kubeconfig")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := makeCgroups(controlPlane); err != nil {
		return nil, err
	}
	for _, pid := range control.PIDs() {
		if err := place(controlPlane, pid); err != nil {
			return nil, err
		}
	}
	if err := c.writeKubeconfig(); err != nil {
		return nil, err
	}
	for i := range config.Count {
		c.Names = append(c.Names, "node"+strconv.Itoa(i+1))
		for cidr, via := range c.routes(i) {
			if err := ip("route add " + cidr + " via " + via); err != nil {
				return nil, err
			}
		}
	}
	if err := c.addClients(ctx); err != nil {
		return nil, err
	}
	for _, name := range append([]string{Clients}, c.Names...) {
		if err := c.start(name); err != nil {
			return nil, err
		}
	}
	return c, c.WaitReady(ctx, c.Names...)
}

// Where cluster.Config's own are of one family. The first is that of package cluster.
const serviceCIDRs = "10.96.0.0/16,fd00:96::/112"

// controlAddress6 is ControlAddress of IPv6.
const controlAddress6 = "fd00:30::1"

// families returns first, of IPv4, and with two families second too.
func (c *Cluster) families(first, second string) []string {
	if c.config.DualStack {
		return []string{first, second}
	}
	return []string{first}
}

// nodeAddresses returns the addresses of a node, one of each family.
func (c *Cluster) nodeAddresses(i int) []string {
	return c.families(fmt.Sprintf("172.30.0.%d", 11+i), fmt.Sprintf("fd00:30::%x", 0x11+i))
}

// podCIDRs are wide enough that no address of a pod is used twice within the minutes for which conntrack remembers it.
func (c *Cluster) podCIDRs(i int) []string {
	return c.families(fmt.Sprintf("10.244.%d.0/20", 16*i), fmt.Sprintf("fd00:244:%x::/64", i))
}

// routes returns the address of a node by pod CIDR.
func (c *Cluster) routes(i int) map[string]string {
	routes := map[string]string{}
	for family, cidr := range c.podCIDRs(i) {
		routes[cidr] = c.nodeAddresses(i)[family]
	}
	return routes
}

// ClientAddresses returns the addresses of a family that clients in the namespace Clients may send from.
func ClientAddresses(family corev1.IPFamily) []string {
	format := map[corev1.IPFamily]string{corev1.IPv4Protocol: "172.30.1.%d", corev1.IPv6Protocol: "fd00:30::1:%x"}[family]
	addresses := make([]string, clientAddresses)
	for i := range addresses {
		addresses[i] = fmt.Sprintf(format, 1+i)
	}
	return addresses
}

// writeKubeconfig writes the kubeconfig of nodes, which don't have the API server on their loopback interface.
func (c *Cluster) writeKubeconfig() error {
	config, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, control := range config.Clusters {
		var port string
		if _, err := fmt.Sscanf(control.Server, "https://127.0.0.1:%s", &port); err != nil {
			return fmt.Errorf("read kubeconfig: server %s: %w", control.Server, err)
		}
		control.Server = "https://" + ControlAddress + ":" + port
	}
	return clientcmd.WriteToFile(*config, c.kubeconfig)
}

// addClients makes the Node object that kube-proxy wants to find for the namespace of clients.
func (c *Cluster) addClients(ctx context.Context) error {
	_, err := c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: Clients},
		Spec:       corev1.NodeSpec{Unschedulable: true},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("add node %s: %w", Clients, err)
	}
	var addresses []corev1.NodeAddress
	for _, address := range c.clientsAddresses() {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": addresses}})
	if err != nil {
		return err
	}
	// A patch, since kube-controller-manager may write to it meanwhile.
	_, err = c.Client.CoreV1().Nodes().Patch(ctx, Clients, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (c *Cluster) clientsAddresses() []string { return c.families("172.30.0.100", "fd00:30::100") }

// start starts a node and waits until its programs are started.
func (c *Cluster) start(name string) error {
	if err := makeCgroups(name); err != nil {
		return err
	}
	config := nodeConfig{Name: name, Addresses: c.clientsAddresses(), Routes: map[string]string{},
		Dir:    filepath.Join(c.Dir, name),
		LogDir: c.LogDir, BinDir: c.BinDir, Kubeconfig: c.kubeconfig, Images: c.config.Images,
		ProxyMode: c.ProxyMode}
	for i, other := range c.Names {
		if name == other {
			config.Zone, config.Addresses, config.PodCIDRs = "zone"+strconv.Itoa(i+1), c.nodeAddresses(i), c.podCIDRs(i)
		} else {
			maps.Copy(config.Routes, c.routes(i))
		}
	}
	if name == Clients {
		config.More = ClientAddresses(corev1.IPv4Protocol)
		if c.config.DualStack {
			config.More = append(config.More, ClientAddresses(corev1.IPv6Protocol)...)
		}
	}
	content, err := json.Marshal(config)
	if err != nil {
		return err
	}

	n := &node{ended: make(chan struct{})}
	n.cmd = exec.Command("/proc/self/exe")
	n.cmd.Args[0] = "evenkeel-" + name
	n.cmd.Env = append(os.Environ(), roleVariable+"="+roleNode)
	n.cmd.Stderr = c.config.Log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	c.running[name] = n
	veth := "veth-" + name
	err = ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %d", veth, n.cmd.Process.Pid),
		"link set "+veth+" master br0 up")
	if err == nil && name == Clients {
		err = place(Clients, n.cmd.Process.Pid)
	}
	if err == nil {
		_, err = stdin.Write(content)
	}
	_ = stdin.Close() // a node that got nothing ends
	var line string
	if err == nil {
		line, err = bufio.NewReader(stdout).ReadString('\n')
	}
	go func() {
		_ = n.cmd.Wait() // it has said why it ended itself
		close(n.ended)
	}()
	if err != nil {
		c.Lose(name)
		return fmt.Errorf("start node %s: %w %s", name, err, line)
	}
	return nil
}

// Lose ends a node as a power cut does: kubelet, containers and network are gone at once, and the
// control plane isn't told.
func (c *Cluster) Lose(name string) {
	n := c.running[name]
	if n == nil {
		return
	}
	delete(c.running, name)
	_ = n.cmd.Process.Kill() // and with the first process of its namespace all others
	<-n.ended
}

// Restore starts a node again after Lose, with the disk that it had, and waits until it is Ready.
func (c *Cluster) Restore(ctx context.Context, name string) error {
	// The end of a network namespace, and with it of the other end of this pair, takes the kernel a moment.
	_ = exec.Command("ip", "link", "del", "veth-"+name).Run() // there may be none
	if err := os.RemoveAll(filepath.Join(c.Dir, name, "state")); err != nil {
		return fmt.Errorf("restore node %s: %w", name, err)
	}
	restored := time.Now()
	if err := c.start(name); err != nil {
		return err
	}
	return c.waitReady(ctx, restored, name)
}

// WaitReady waits until the nodes are Ready, three minutes at most.
func (c *Cluster) WaitReady(ctx context.Context, names ...string) error {
	return c.waitReady(ctx, time.Time{}, names...)
}

// waitReady waits until nodes are Ready by word of a kubelet from after since.
func (c *Cluster) waitReady(ctx context.Context, since time.Time, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, name := range names {
		for !c.ready(ctx, name, since) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("wait for node %s: %w; see the log of its kubelet", name, ctx.Err())
			}
		}
	}
	return nil
}

func (c *Cluster) ready(ctx context.Context, name string, since time.Time) bool {
	n, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue &&
				!condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second))
		}
	}
	return false
}

// Command returns a command that runs in the network of a node, or of Clients.
func (c *Cluster) Command(ctx context.Context, name string, command ...string) (*exec.Cmd, error) {
	n := c.running[name]
	if n == nil {
		return nil, fmt.Errorf("node %s doesn't run", name)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(n.cmd.Process.Pid), "--net"},
		command...)...), nil
}

// Tag gives an image a second name on every node.
func (c *Cluster) Tag(from, to string) error {
	for _, name := range c.Names {
		out, err := exec.Command("ctr", "-a", filepath.Join(c.Dir, name, "containerd.sock"), "-n", "k8s.io", "images", "tag",
			from, to).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tag image %s on %s: %w: %s", from, name, err, out)
		}
	}
	return nil
}

// Stop ends everything.
func (c *Cluster) Stop() error {
	for _, name := range append([]string{Clients}, c.Names...) {
		c.Lose(name)
	}
	return c.Cluster.Stop()
}
