package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// existing connects to the cluster that KUBECONFIG names, whose current context must be a user who may do everything.
func existing(ctx context.Context, config Config) (_ *Cluster, err error) {
	if config.Log == nil {
		config.Log = io.Discard
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG: %w", err)
	}
	restConfig, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("use KUBECONFIG: %w", err)
	}
	restConfig.QPS, restConfig.Burst = -1, -1 // no limit
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("use KUBECONFIG: %w", err)
	}
	if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return nil, fmt.Errorf("cluster of KUBECONFIG isn't ready: %w", err)
	}

	c := &Cluster{config: config, rest: restConfig, Client: client}
	if c.Dir, err = os.MkdirTemp("", "evenkeel-cluster-"); err != nil {
		return nil, fmt.Errorf("make cluster directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	// One file, as KUBECONFIG may be a list of them.
	c.Kubeconfig = c.kubeconfig(admin)
	if err := clientcmd.WriteToFile(raw, c.Kubeconfig); err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := rest.LoadTLSFiles(restConfig); err != nil {
		return nil, fmt.Errorf("read certificates of KUBECONFIG: %w", err)
	}
	c.CAFile = c.path("ca.crt")
	if err := os.WriteFile(c.CAFile, restConfig.CAData, 0o600); err != nil {
		return nil, fmt.Errorf("write certificates: %w", err)
	}
	return c, nil
}
