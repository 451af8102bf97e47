// Package connect finds the cluster that somebody means, as kubectl does, and says what to do where it can't be used.
package connect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/internal/words"
)

// Config says which cluster is meant.
type Config struct {
	Rules     *clientcmd.ClientConfigLoadingRules
	Overrides clientcmd.ConfigOverrides
	// Instead is what to do without a cluster, for the error; "" for nothing.
	Instead string
}

// Cluster is a cluster and a namespace of it.
type Cluster struct {
	Client    kubernetes.Interface
	Source    string // for people
	Namespace string
}

// Find returns the cluster. Nothing has been asked of it.
func (c *Config) Find() (*Cluster, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(c.Rules, &c.Overrides)
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
	result := &Cluster{Client: client, Namespace: namespace, Source: "the cluster at " + config.Host}
	if raw, err := loader.RawConfig(); err == nil {
		if name := c.Overrides.CurrentContext; name != "" {
			result.Source = "context " + name
		} else if raw.CurrentContext != "" {
			result.Source = "context " + raw.CurrentContext
		}
	}
	return result, nil
}

// configError says what is wrong with the kubeconfig.
func (c *Config) configError(err error) error {
	raw, loadErr := c.Rules.Load()
	name := c.Overrides.CurrentContext
	switch {
	case clientcmd.IsEmptyConfig(err) && len(c.Rules.Precedence) > 0:
		return fmt.Errorf("no cluster is configured in %s; set KUBECONFIG or --kubeconfig%s",
			strings.Join(c.Rules.Precedence, ", "), c.Instead)
	case clientcmd.IsEmptyConfig(err):
		return errors.New("no cluster is configured; set KUBECONFIG or --kubeconfig" + c.Instead)
	case loadErr == nil && name != "" && raw.Contexts[name] == nil:
		return words.NotFound("context", name, slices.Collect(maps.Keys(raw.Contexts)))
	}
	return fmt.Errorf("read kubeconfig: %w", err)
}

// Explain turns what the API server or the network says into what to do about it.
func (c *Cluster) Explain(ctx context.Context, namespace string, err error) error {
	var network *url.Error
	switch {
	case apierrors.IsForbidden(err) && namespace == "":
		return fmt.Errorf("%w; name a namespace that you may read with -n", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; it needs get, list on workloads and pods", err)
	case apierrors.IsNotFound(err) && namespace != "":
		list, listErr := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if listErr != nil {
			return fmt.Errorf("namespace %q does not exist", namespace)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return words.NotFound("namespace", namespace, names)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials of the kubeconfig: %w", c.Source, err)
	case errors.As(err, &network):
		return fmt.Errorf("can't reach %s: %w; is it running, and is this the right context?", c.Source, network.Err)
	}
	return err
}
