package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ControlAddress is where nodes and pods reach the API server, and whoever calls Start: on the
// bridge that connects everything.
const ControlAddress = "172.30.0.1"

const (
	cniDir     = "/usr/lib/cni"
	pauseImage = "evenkeel.test/pause:1"
)

// onLink returns what ip(8) calls an address of the network of all nodes, which can be used at once.
func onLink(address string) string {
	if strings.Contains(address, ":") {
		return address + "/64 nodad"
	}
	return address + "/16"
}

// nodeConfig is what the first process of a node reads from its standard input.
type nodeConfig struct {
	Name, Zone string
	Addresses  []string          // of the node, one of each family
	More       []string          // more addresses of its interface
	PodCIDRs   []string          // one of each family; empty for a node without kubelet
	Routes     map[string]string // address of the node by pod CIDR, all other nodes'
	Dir        string            // of its files
	LogDir     string
	BinDir     string // of kubelet and kube-proxy
	Kubeconfig string
	Images     []string // files
	ProxyMode  string
}

// nodeMain is a node: the first process in process, mount and network namespaces of its own. It
// starts the node's programs and waits for whatever ends in it. When it is killed, the kernel ends
// everything on the node, and removes its network.
func nodeMain() error {
	var c nodeConfig
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return fmt.Errorf("read configuration of node: %w", err)
	}
	names := map[int]string{}
	if err := c.start(names); err != nil {
		return fmt.Errorf("start node %s: %w", c.Name, err)
	}
	fmt.Println("started") // the parent waits for it
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the programs of node %s: %w", c.Name, err)
		}
		if name := names[pid]; name != "" {
			return fmt.Errorf("%s of node %s ended: status %#x; see its log", name, c.Name, status)
		}
	}
}

// start sets up mounts and network and starts the programs, whose names go by their process ids into names.
func (c nodeConfig) start(names map[int]string) error {
	if err := c.mounts(); err != nil {
		return err
	}
	if err := c.network(); err != nil {
		return err
	}
	if len(c.PodCIDRs) > 0 {
		if err := c.container(names); err != nil {
			return err
		}
	}
	return c.run(names, "kube-proxy", filepath.Join(c.BinDir, "kube-proxy"), "--kubeconfig="+c.Kubeconfig,
		"--hostname-override="+c.Name,
		"--proxy-mode="+c.ProxyMode, "--conntrack-max-per-core=0", "--conntrack-min=0", "--bind-address=0.0.0.0")
}

// container starts containerd, with the images, and the kubelet.
func (c nodeConfig) container(names map[int]string) error {
	socket := c.path("containerd.sock")
	ipam, err := json.Marshal(c.ipam())
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"containerd.toml": fmt.Sprintf(containerdConfig, c.path("containerd"), c.path("state"), socket, c.path("ttrpc.sock"),
			pauseImage, cniDir, c.path("cni")),
		"cni/10.conflist": fmt.Sprintf(cniConfig, ipam),
		"kubelet.yaml":    fmt.Sprintf(kubeletConfig, cgroupName+"/"+c.Name, socket, c.path("pods"), c.path("plugins")),
	} {
		if err := os.MkdirAll(filepath.Dir(c.path(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(c.path(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := c.run(names, "containerd", "containerd", "-c", c.path("containerd.toml")); err != nil {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for exec.Command("ctr", "-a", socket, "version").Run() != nil {
		if time.Now().After(deadline) {
			return errors.New("containerd doesn't answer; see its log")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, file := range c.Images {
		if err := importImage(socket, file); err != nil {
			return err
		}
	}
	return c.run(names, "kubelet", filepath.Join(c.BinDir, "kubelet"), "--kubeconfig="+c.Kubeconfig,
		"--config="+c.path("kubelet.yaml"),
		"--root-dir="+c.path("kubelet"), "--cert-dir="+c.path("pki"), "--hostname-override="+c.Name,
		"--node-ip="+strings.Join(c.Addresses, ","), "--node-labels=topology.kubernetes.io/zone="+c.Zone, "-v=2")
}

// ipam is the configuration of the CNI plugin host-local, by which a pod gets an address of each pod CIDR.
func (c nodeConfig) ipam() map[string]any {
	var ranges [][]map[string]string
	var routes []map[string]string
	for family, cidr := range c.PodCIDRs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
		routes = append(routes, map[string]string{"dst": []string{"0.0.0.0/0", "::/0"}[family]})
	}
	return map[string]any{"type": "host-local", "dataDir": c.path("ipam"), "ranges": ranges, "routes": routes}
}

func importImage(socket, file string) error {
	if out, err := exec.Command("ctr", "-a", socket, "-n", "k8s.io", "images", "import",
		file).CombinedOutput(); err != nil {
		return fmt.Errorf("import image %s: %w: %s", filepath.Base(file), err, out)
	}
	return nil
}

// mounts hides from the node what the programs would otherwise share with the machine.
func (c nodeConfig) mounts() error {
	if err := privateMounts(); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// The kubelet sets these for the whole machine unless they are already as it wants them.
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10",
		"kernel/panic_on_oops":     "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"} {
		file := c.path("sysctl-" + filepath.Base(name))
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return err
		}
		if err := syscall.Mount(file, "/proc/sys/"+name, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", name, err)
		}
	}
	return nil
}

func (c nodeConfig) network() error {
	if err := ip("link set lo up", "link set eth0 up"); err != nil {
		return err
	}
	for _, address := range slices.Concat(c.Addresses, c.More) {
		if err := ip("addr add " + onLink(address) + " dev eth0"); err != nil {
			return err
		}
	}
	// Even an address of a Service, which kube-proxy rewrites, needs a route.
	for _, via := range []string{ControlAddress, controlAddress6}[:len(c.Addresses)] {
		if err := ip("route add default via " + via); err != nil {
			return err
		}
	}
	for cidr, via := range c.Routes {
		if err := ip("route add " + cidr + " via " + via); err != nil {
			return err
		}
	}
	settings := []string{"ipv4/ip_forward", "ipv4/conf/all/route_localnet"}
	if len(c.Addresses) > 1 {
		settings = append(settings, "ipv6/conf/all/forwarding")
	}
	for _, name := range settings {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return fmt.Errorf("set up network: %w", err)
		}
	}
	return nil
}

// run starts a program whose output goes to the log NODE-NAME.log.
func (c nodeConfig) run(names map[int]string, name string, command ...string) error {
	log, err := os.OpenFile(filepath.Join(c.LogDir, c.Name+"-"+name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environment()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	names[cmd.Process.Pid] = name
	return nil
}

// environment is what the programs of a node get: nothing that is only ours.
func environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, roleVariable+"=") && !strings.HasPrefix(variable, "TMPDIR=") {
			kept = append(kept, variable)
		}
	}
	return kept
}

func (c nodeConfig) path(name string) string { return filepath.Join(c.Dir, name) }

const containerdConfig = `version = 2
root = %q
state = %q
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`

const cniConfig = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
"ipMasq":false,"hairpinMode":true,
"ipam":%s}]}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /%s
cgroupsPerQOS: true
enforceNodeAllocatable: []
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://%s
podLogsDir: %s
volumePluginDir: %s
resolvConf: ""
maxPods: 500
nodeStatusUpdateFrequency: 10s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "100Mi", nodefs.available: "1%%", imagefs.available: "1%%", nodefs.inodesFree: "1%%"}
`
