package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// A process is a running component: a process group of its own with its output in a file.
type process struct {
	name string
	pid  int
	log  string        // path of the file with its output
	done chan struct{} // closed when it has ended and was waited for
	end  string        // how it ended: "exit status 1", "signal: killed"; read after done
}

// startProcess starts a component. On Linux the kernel kills it when this process dies, however it dies; that signal
// is tied to the thread that forked, so a goroutine keeps that thread until the component has ended.
func startProcess(name, logPath string, command ...string) (*process, error) {
	file, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	p := &process{name: name, log: logPath, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = file, file
		cmd.SysProcAttr = componentAttributes()
		err := cmd.Start()
		_ = file.Close() // the component has its own copy
		if err != nil {
			started <- fmt.Errorf("start %s: %w", name, err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		_ = cmd.Wait() // its error says no more than the state
		p.end = cmd.ProcessState.String()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// exited says whether the process has ended.
func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends the signal to the process group and waits. After grace it kills. It is safe to call twice.
func (p *process) stop(signal syscall.Signal, grace time.Duration) {
	if p.exited() { // its id may be somebody else's by now
		return
	}
	_ = syscall.Kill(-p.pid, signal)
	select {
	case <-p.done:
		return
	case <-time.After(grace):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
}

// lastLines returns the end of the component's log, for an error message.
func (p *process) lastLines() string {
	file, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > 3<<10 {
		_, _ = file.Seek(-3<<10, io.SeekEnd)
	}
	content, _ := io.ReadAll(file)
	return string(content)
}

// exitError describes how a component ended that should still be running.
func (p *process) exitError() error {
	return fmt.Errorf("%s ended: %s; the end of its log:\n%s", p.name, p.end, p.lastLines())
}

// A reaper is a shell that outlives this process: when the pipe to it closes, because this process
// was killed, it ends the process groups it was told of and removes the directory. It stands in a
// session of its own, so that Ctrl-C and the kill of a process group pass it by.
type reaper struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// The shell reads one process group per line; "-N" takes one back.
const reaperScript = `
groups=" "
while read -r group; do
	case $group in
	-*) groups=${groups%%" ${group#-} "*}" "${groups#*" ${group#-} "} ;;
	*) groups="$groups$group " ;;
	esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
tries=0
while [ "$tries" -lt 50 ] && ! rm -rf -- "$1" 2>/dev/null; do tries=$((tries + 1)); sleep 0.1; done
`

func startReaper(dir string) (*reaper, error) {
	cmd := exec.Command("/bin/sh", "-c", reaperScript, "evenkeel-reaper", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	return &reaper{cmd: cmd, pipe: pipe}, nil
}

// watch tells the reaper of a process group, forget takes it back once the process was waited for.
func (r *reaper) watch(pid int) error {
	_, err := io.WriteString(r.pipe, strconv.Itoa(pid)+"\n")
	return err
}

func (r *reaper) forget(pid int) {
	_, _ = io.WriteString(r.pipe, "-"+strconv.Itoa(pid)+"\n") // a dead reaper has nothing to forget
}

// finish lets the reaper do its work, which at the end of an orderly Stop is to remove the directory, and waits.
func (r *reaper) finish() error {
	return errors.Join(r.pipe.Close(), r.cmd.Wait())
}
