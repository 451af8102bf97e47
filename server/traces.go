package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// flushTimeout bounds what is waited for the collector at the end. It is part of the 10 s
// that deploy/ has to spare in the grace period.
const flushTimeout = 5 * time.Second

// newTraces returns what sends spans to the collector that OpenTelemetry's standard
// environment variables name, or nil where they name none, which is the default. Its
// errors are about values that can't be used.
//
// A request is traced if its caller says that it samples it: kube-apiserver decides, and
// whoever sends no parent gets no span, unless OTEL_TRACES_SAMPLER says otherwise. At most
// 2,048 spans wait (OTEL_BSP_MAX_QUEUE_SIZE), and further ones are dropped, so that nothing
// ever waits for the collector.
func newTraces(ctx context.Context, version string, log *logrus.Entry) (*sdktrace.TracerProvider, error) {
	endpoint := otlpVariable("ENDPOINT")
	if endpoint == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") ||
		os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, nil //nolint:nilnil // no traces is what is asked for
	}
	sampler, err := traceSampler(os.Getenv("OTEL_TRACES_SAMPLER"), os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	if err != nil {
		return nil, err
	}
	client, err := newCollector(endpoint, log)
	if err != nil {
		return nil, err
	}
	attributes := []attribute.KeyValue{attribute.String("service.name", "evenkeel"),
		attribute.String("service.version", version)}
	if hostname, err := os.Hostname(); err == nil { // in a pod its name
		attributes = append(attributes, attribute.String("service.instance.id", hostname))
	}
	from, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(attributes...),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sampler),
		sdktrace.WithResource(from)), nil
}

// otlpVariable returns the value of OTEL_EXPORTER_OTLP_TRACES_name or else of
// OTEL_EXPORTER_OTLP_name.
func otlpVariable(name string) string {
	if value := strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_" + name)); value != "" {
		return value
	}
	return strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_" + name))
}

// traceSampler returns the sampler of a name and an argument as OpenTelemetry's
// specification has them. The SDK would take a name that doesn't exist for "sample all".
func traceSampler(name, arg string) (sdktrace.Sampler, error) {
	ratio := 1.0
	if arg != "" && strings.HasSuffix(name, "traceidratio") {
		var err error
		if ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG=%q is not a ratio; allowed: 0 to 1", arg)
		}
	}
	switch name {
	case "", "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER=%q is not a sampler; allowed: always_on, always_off, traceidratio, and "+
		"each of them after parentbased_", name)
}

// collector sends spans in protobuf over HTTP, one request for each batch, and drops what
// isn't taken. It is otlptrace.Client in place of the package otlptracehttp, which brings
// the whole of gRPC along: 23 MB of program, where this is one.
type collector struct {
	http    *http.Client
	url     string
	headers http.Header // may hold secrets
	gzip    bool
	log     *logrus.Entry
	logged  time.Time // the last time that an error was
}

// newCollector returns a collector for what the variables of OpenTelemetry's exporter
// specification say: ENDPOINT, HEADERS, TIMEOUT, COMPRESSION, CERTIFICATE,
// CLIENT_CERTIFICATE, CLIENT_KEY and PROTOCOL.
func newCollector(endpoint string, log *logrus.Entry) (*collector, error) {
	to, err := url.Parse(endpoint)
	if err != nil || to.Host == "" || (to.Scheme != "http" && to.Scheme != "https") {
		return nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is no URL; allowed: http://HOST:PORT or https://HOST:PORT")
	}
	if strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")) == "" { // that one is taken as it is
		to = to.JoinPath("v1", "traces")
	}
	c := &collector{url: to.String(), headers: http.Header{}, log: log}
	if p := otlpVariable("PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%q is not supported; allowed: http/protobuf", p)
	}
	switch compression := otlpVariable("COMPRESSION"); compression {
	case "", "none":
	case "gzip":
		c.gzip = true
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_COMPRESSION=%q is not supported; allowed: gzip, none", compression)
	}
	timeout := 10 * time.Second
	if text := otlpVariable("TIMEOUT"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil || ms == 0 {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_TIMEOUT=%q is not a timeout; allowed: a number of milliseconds", text)
		}
		timeout = time.Duration(ms) * time.Millisecond
	}
	for pair := range strings.SplitSeq(otlpVariable("HEADERS"), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if err != nil || strings.TrimSpace(name) == "" {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS can't be read; allowed: name=value, with %XX for special " +
				"characters, separated by commas")
		}
		c.headers.Set(strings.TrimSpace(name), value)
	}
	c.headers.Set("Content-Type", "application/x-protobuf")
	c.headers.Set("User-Agent", "evenkeel")
	if c.gzip {
		c.headers.Set("Content-Encoding", "gzip")
	}
	config, err := collectorTLS()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Timeout: timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: timeout, MaxIdleConns: 1, IdleConnTimeout: 90 * time.Second}}
	return c, nil
}

// collectorTLS returns how to verify the collector, and the certificate to show it.
func collectorTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := otlpVariable("CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: no certificate in %s", file)
		}
	}
	if file, key := otlpVariable("CLIENT_CERTIFICATE"), otlpVariable("CLIENT_KEY"); file != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(file, key)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Start implements otlptrace.Client.
func (*collector) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *collector) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. It writes what goes wrong to the log, once a
// minute at most, and returns nothing: whoever sends us many spans decides how often a
// batch is full. The SDK sends one batch at a time.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	if err := c.upload(ctx, spans); err != nil && time.Since(c.logged) > time.Minute {
		c.logged = time.Now()
		c.log.WithError(err).Warning("spans dropped")
	}
	return nil
}

func (c *collector) upload(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans}) // the bytes of an ExportTraceServiceRequest
	if err != nil {
		return fmt.Errorf("write spans: %w", err)
	}
	if c.gzip {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(body) // memory takes all
		_ = w.Close()
		body = packed.Bytes()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header = c.headers.Clone()
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, 4<<10) // so that the connection can be used again
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("send spans: the collector answered %d", response.StatusCode)
	}
	return nil
}
