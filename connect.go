package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
)

// connection is a cluster and the evenkeel in it.
type connection struct {
	client       kubernetes.Interface
	source       string // for people
	namespace    string
	installation *audit.Installation
	config       patches.Config
	rules        audit.Rules
}

// client returns a connection of which only the client, the source and the namespace are known.
func (c *clusterFlags) client() (*connection, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(c.rules, &c.overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, c.configError(err)
	}
	config.UserAgent, config.QPS, config.Burst = "evenkeel-audit", 50, 100
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, c.configError(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	result := &connection{client: client, namespace: namespace, source: "the cluster at " + config.Host}
	if raw, err := loader.RawConfig(); err == nil {
		if name := c.overrides.CurrentContext; name != "" {
			result.source = "context " + name
		} else if raw.CurrentContext != "" {
			result.source = "context " + raw.CurrentContext
		}
	}
	return result, nil
}

// connect reaches the cluster, and finds out by what flags evenkeel runs there; those
// of own that were given on the command line win.
func (c *clusterFlags) connect(ctx context.Context, own *policyFlags) (*connection, error) {
	result, err := c.client()
	if err != nil {
		return nil, err
	}
	if result.installation, err = audit.Installed(ctx, result.client); err != nil {
		return nil, result.explained(ctx, "", err)
	}
	if err := own.adopt(result.installation); err != nil {
		return nil, err
	}
	if result.config, err = own.config(); err != nil {
		return nil, err
	}
	if result.rules, err = rulesOf(result.config); err != nil {
		return nil, err
	}
	result.rules.Flags = audit.Flags{Given: own.given(), Of: "evenkeel serve", Hidden: result.installation.Hidden}
	return result, nil
}

// configError says what is wrong with the kubeconfig.
func (c *clusterFlags) configError(err error) error {
	if clientcmd.IsEmptyConfig(err) {
		return errors.New("no cluster is configured; set KUBECONFIG or --kubeconfig" + c.instead)
	}
	if raw, loadErr := c.rules.Load(); loadErr == nil && clientcmd.IsContextNotFound(err) {
		return words.NotFound("context", c.overrides.CurrentContext, slices.Collect(maps.Keys(raw.Contexts)))
	}
	return fmt.Errorf("read kubeconfig: %w", err)
}

// explained turns what the API server or the network says into what to do about it.
func (c *connection) explained(ctx context.Context, namespace string, err error) error {
	var network *url.Error
	switch {
	case apierrors.IsForbidden(err) && namespace == "":
		return fmt.Errorf("%w; name a namespace that you may read with -n", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; it needs get, list on workloads and pods", err)
	case apierrors.IsNotFound(err) && namespace != "":
		list, listErr := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if listErr != nil {
			return fmt.Errorf("namespace %q does not exist", namespace)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return words.NotFound("namespace", namespace, names)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials of the kubeconfig: %w", c.source, err)
	case errors.As(err, &network):
		return fmt.Errorf("can't reach %s: %w; is it running, and is this the right context?", c.source, network.Err)
	}
	return err
}
