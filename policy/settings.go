package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/words"
)

// The names of the settings: the annotation without Prefix, and the flag.
const (
	SettingAntiAffinity     = "anti-affinity"
	SettingTopologyKeys     = "topology-keys"
	SettingSpread           = "spread"
	SettingPreStopSleep     = "pre-stop-sleep"
	SettingGracePeriod      = "grace-period"
	SettingReadinessProbe   = "readiness-probe"
	SettingDisruptionBudget = "disruption-budget"
	SettingBudgetPatience   = "budget-patience"
	SettingDrain            = "drain"
	SettingNodeLoss         = "node-loss"
	SettingContainers       = "containers"
)

// Setting is one row of the table of settings.
type Setting struct {
	// Name is the annotation key without Prefix and, where Flag is set, the flag.
	Name string
	// Values says what is allowed, in Markdown; Allowed in plain text.
	Values string
	// Default is the built-in value as it would be written.
	Default string
	// Effect says in one sentence what the setting does.
	Effect string
	// Flag reports whether a flag and the Namespace may set it too, or only the
	// workload.
	Flag bool

	// parse sets the field of p, or leaves p alone and returns an error whose text
	// follows the value in a sentence. clamped is the bound that the value was
	// lowered to, or "".
	parse func(p *Policy, value string, bounds Bounds) (clamped string, err error)
}

// Annotation returns the whole annotation key.
func (s *Setting) Annotation() string { return Prefix + s.Name }

// settings is the table of all settings. It never changes.
var settings = [...]Setting{
	{
		Name: SettingAntiAffinity, Flag: true,
		Values:  "`preferred`, `required`, `off`",
		Default: "preferred",
		Effect:  "Keeps replicas apart, as a preference or, for the first topology key, a requirement.",
		parse:   parseAntiAffinity,
	},
	{
		Name: SettingTopologyKeys, Flag: true,
		Values:  "1 to 8 node label keys, comma-separated, most important first",
		Default: "kubernetes.io/hostname,topology.kubernetes.io/zone",
		Effect:  "The failure domains that replicas are kept apart over.",
		parse:   parseTopologyKeys,
	},
	{
		Name: SettingSpread, Flag: true,
		Values:  "`anti-affinity`, `topology-spread`",
		Default: "anti-affinity",
		Effect: "What keeps replicas apart where that is a preference: preferred pod anti-affinity, or soft " +
			"topology spread " +
			"constraints, which cost the scheduler of a large cluster less.",
		parse: parseSpread,
	},
	{
		Name: SettingPreStopSleep, Flag: true,
		Values:  "whole seconds as a duration such as `10s`, `auto`, or `off`",
		Default: "10s",
		Effect: "How long a container goes on serving after its pod began to terminate; auto makes that longer where the " +
			"Services that lead to the pod need it.",
		parse: parsePreStopSleep,
	},
	{
		Name: SettingGracePeriod, Flag: true,
		Values:  "`keep`, `raise`",
		Default: "keep",
		Effect: "Whether a termination grace period that somebody wrote is raised by the sleep, or kept, with the sleep " +
			"inside it.",
		parse: parseGracePeriod,
	},
	{
		Name: SettingReadinessProbe, Flag: true,
		Values: "`auto`, `off`, `tcp:PORT`, `http:PORT/PATH`, `https:PORT/PATH`, `grpc:PORT[/SERVICE]`; PORT is a number " +
			"or a name",
		Default: "auto",
		Effect:  "How the kubelet finds out that a container can take traffic.",
		parse:   parseReadinessProbe,
	},
	{
		Name: SettingDisruptionBudget, Flag: true,
		Values:  "`maxUnavailable=N`, `maxUnavailable=P%`, `minAvailable=N`, `minAvailable=P%`, `quorum`, `off`",
		Default: "maxUnavailable=10%",
		Effect:  "How many pods of the workload a drain may evict at once.",
		parse:   parseDisruptionBudget,
	},
	{
		Name: SettingBudgetPatience, Flag: true,
		Values:  "whole seconds as a duration such as `10m`, or `off`",
		Default: "10m",
		Effect:  "How long the budget may let nothing be evicted before it steps aside until all replicas are ready.",
		parse:   parseBudgetPatience,
	},
	{
		Name: SettingDrain, Flag: true,
		Values:  "`surge`, `off`",
		Default: "off",
		Effect: "Whether a drain that wants the only ready pod of a Deployment waits until another is ready; evenkeel " +
			"needs rights for it that deploy/surge brings.",
		parse: parseDrain,
	},
	{
		Name: SettingNodeLoss, Flag: true,
		Values:  "whole seconds up to a day as a duration such as `30s`, or `off`",
		Default: "off",
		Effect: "How long pods stay on a node that is lost before they are replaced; off leaves that to Kubernetes, which " +
			"waits 300 s.",
		parse: parseNodeLoss,
	},
	{
		Name:    SettingContainers,
		Values:  "1 to 16 container names, comma-separated",
		Default: "",
		Effect:  "The only containers that get probe and hook; without it all that serve.",
		parse:   parseContainers,
	},
}

// Settings returns a copy of the table of all settings, in the order of the
// documents.
func Settings() []Setting { return slices.Clone(settings[:]) }

// Default returns the built-in policy.
func Default() Policy {
	var p Policy
	for i := range settings {
		if settings[i].Default == "" {
			continue
		}
		if _, err := settings[i].parse(&p, settings[i].Default, DefaultBounds()); err != nil {
			panic("policy: built-in default of " + settings[i].Name + " " + err.Error()) // seen by any test
		}
	}
	return p
}

// Allowed says what values the setting may have, for a terminal or a warning.
func (s *Setting) Allowed() string { return strings.ReplaceAll(s.Values, "`", "") }

// Set overrides one setting of p as a flag does. It returns an error that names
// the flag, the value and what is allowed when the setting has no flag, the
// value can't be used, or it is above its bound.
func (p *Policy) Set(name, value string, bounds Bounds) error {
	for i := range settings {
		s := &settings[i]
		if s.Name != name || !s.Flag {
			continue
		}
		set := *p
		clamped, err := s.parse(&set, value, bounds)
		if err == nil && clamped != "" {
			err = fmt.Errorf("is above the bound of %s", clamped)
		}
		if err != nil {
			return fmt.Errorf("--%s=%q %w; allowed: %s", name, words.Shorten(value, 64), err, s.Allowed())
		}
		*p = set
		return nil
	}
	return fmt.Errorf("no setting %q has a flag", name)
}

// maxValue caps the length of every value in bytes. The longest useful one is a
// list of 8 label keys of at most 317 bytes each.
const maxValue = 4096

var (
	errTooLong = errors.New("is too long")
	errEmpty   = errors.New("is empty")
	errNone    = errors.New("is none of these")
)

func parseAntiAffinity(p *Policy, value string, _ Bounds) (string, error) {
	switch a := AntiAffinity(value); a {
	case AntiAffinityPreferred, AntiAffinityRequired, AntiAffinityOff:
		p.AntiAffinity = a
		return "", nil
	}
	return "", errNone
}

func parseSpread(p *Policy, value string, _ Bounds) (string, error) {
	switch s := Spread(value); s {
	case SpreadAntiAffinity, SpreadTopology:
		p.Spread = s
		return "", nil
	}
	return "", errNone
}

func parseTopologyKeys(p *Policy, value string, _ Bounds) (string, error) {
	keys, err := list(value, 8)
	if err != nil {
		return "", err
	}
	for _, key := range keys {
		if !isLabelKey(key) {
			return "", fmt.Errorf("holds %q, which is not a label key", words.Shorten(key, 40))
		}
	}
	p.TopologyKeys = keys
	return "", nil
}

// shortestAuto is how long the sleep is with auto, at least, where it is off otherwise.
const shortestAuto = 10 * time.Second

func parsePreStopSleep(p *Policy, value string, bounds Bounds) (string, error) {
	switch value {
	case "off":
		p.PreStopSleep, p.AutoSleep = 0, false
		return "", nil
	case "auto": // only ever lengthens
		if p.PreStopSleep == 0 {
			p.PreStopSleep = min(shortestAuto, bounds.MaxPreStopSleep)
		}
		p.AutoSleep = true
		return "", nil
	}
	sleep, err := parseSeconds(value)
	switch {
	case err != nil:
		return "", err
	case sleep > bounds.MaxPreStopSleep:
		p.PreStopSleep, p.AutoSleep = bounds.MaxPreStopSleep, false
		return bounds.MaxPreStopSleep.String(), nil
	}
	p.PreStopSleep, p.AutoSleep = sleep, false
	return "", nil
}

func parseGracePeriod(p *Policy, value string, _ Bounds) (string, error) {
	if value != "keep" && value != "raise" {
		return "", errNone
	}
	p.RaiseGracePeriod = value == "raise"
	return "", nil
}

func parseReadinessProbe(p *Policy, value string, _ Bounds) (string, error) {
	if len(value) > maxValue {
		return "", errTooLong
	}
	kind, rest, detailed := strings.Cut(value, ":")
	probe := Probe{Kind: ProbeKind(kind)}
	switch probe.Kind {
	case ProbeAuto, ProbeOff:
		if detailed {
			return "", fmt.Errorf("has something after %q", kind)
		}
		p.ReadinessProbe = probe
		return "", nil
	case ProbeTCP, ProbeHTTP, ProbeHTTPS, ProbeGRPC:
	default:
		return "", errNone
	}

	port, path, hasPath := strings.Cut(rest, "/")
	switch number, err := strconv.ParseUint(port, 10, 64); {
	case err == nil && number >= 1 && number <= 65535 && port[0] != '0':
		probe.PortNumber = int(number)
	case isPortName(port):
		probe.PortName = port
	default:
		return "", errors.New("has no port number from 1 to 65535 and no port name")
	}
	switch probe.Kind {
	case ProbeTCP:
		if hasPath {
			return "", errors.New("has a path, which a TCP probe has not")
		}
	case ProbeGRPC:
		if hasPath && !isVisible(path, 253) {
			return "", errors.New("has a service that is empty, too long, or holds spaces or control characters")
		}
		probe.Service = path
	default:
		if probe.Path = "/" + path; !isVisible(probe.Path, 1024) {
			return "", errors.New("has a path that is too long, or holds spaces or control characters")
		}
	}
	p.ReadinessProbe = probe
	return "", nil
}

func parseDisruptionBudget(p *Policy, value string, _ Bounds) (string, error) {
	switch value {
	case "off":
		p.DisruptionBudget = Budget{Kind: BudgetOff}
		return "", nil
	case "quorum":
		p.DisruptionBudget = Budget{Kind: BudgetQuorum}
		return "", nil
	}
	kind, amount, ok := strings.Cut(value, "=")
	b := Budget{Kind: BudgetKind(kind)}
	if !ok || b.Kind != BudgetMaxUnavailable && b.Kind != BudgetMinAvailable {
		return "", errNone
	}
	amount, b.Percent = strings.CutSuffix(amount, "%")
	n, err := strconv.ParseUint(amount, 10, 31)
	switch {
	case err != nil:
		return "", errors.New("has no whole number")
	case b.Percent && n > 100:
		return "", errors.New("is more than 100%")
	case b.Kind == BudgetMaxUnavailable && n == 0:
		return "", errors.New("would let no drain finish")
	case b.Kind == BudgetMinAvailable && b.Percent && n == 100:
		return "", errors.New("would let no drain finish")
	}
	b.Value = int(n)
	p.DisruptionBudget = b
	return "", nil
}

func parseBudgetPatience(p *Policy, value string, _ Bounds) (string, error) {
	if value == "off" {
		p.BudgetPatience = 0
		return "", nil
	}
	patience, err := parseSeconds(value)
	if err != nil {
		return "", err
	}
	p.BudgetPatience = patience
	return "", nil
}

func parseDrain(p *Policy, value string, _ Bounds) (string, error) {
	if value != "surge" && value != "off" {
		return "", errNone
	}
	p.DrainSurge = value == "surge"
	return "", nil
}

// maxNodeLoss is the longest time that a setting may ask for.
const maxNodeLoss = 24 * time.Hour

func parseNodeLoss(p *Policy, value string, _ Bounds) (string, error) {
	if value == "off" {
		p.NodeLoss = 0
		return "", nil
	}
	wait, err := parseSeconds(value)
	switch {
	case err != nil:
		return "", err
	case wait > maxNodeLoss:
		return "", errors.New("is more than a day")
	}
	p.NodeLoss = wait
	return "", nil
}

// parseSeconds reads a duration of whole seconds, one at least.
func parseSeconds(value string) (time.Duration, error) {
	if len(value) > 32 {
		return 0, errTooLong
	}
	d, err := time.ParseDuration(value)
	switch {
	case err != nil:
		return 0, errors.New("is not a duration")
	case d%time.Second != 0:
		return 0, errors.New("is not in whole seconds")
	case d < time.Second:
		return 0, errors.New("is less than 1s")
	}
	return d, nil
}

func parseContainers(p *Policy, value string, _ Bounds) (string, error) {
	containers, err := list(value, 16)
	if err != nil {
		return "", err
	}
	for _, name := range containers {
		if !IsDNSLabel(name) {
			return "", fmt.Errorf("holds %q, which is not a container name", words.Shorten(name, 40))
		}
	}
	p.Containers = containers
	return "", nil
}

// list splits a comma-separated list of 1 to most different entries. Spaces
// around an entry are dropped.
func list(value string, most int) ([]string, error) {
	if len(value) > maxValue {
		return nil, errTooLong
	}
	if strings.TrimSpace(value) == "" {
		return nil, errEmpty
	}
	if strings.Count(value, ",") >= most {
		return nil, fmt.Errorf("has more than %d entries", most)
	}
	entries := strings.Split(value, ",")
	for i, entry := range entries {
		entries[i] = strings.TrimSpace(entry)
		if entries[i] == "" {
			return nil, errors.New("has an empty entry")
		}
		if slices.Contains(entries[:i], entries[i]) {
			return nil, fmt.Errorf("names %q twice", words.Shorten(entries[i], 40))
		}
	}
	return entries, nil
}

// isLabelKey reports whether key is a qualified name as the API defines label
// keys (apimachinery validation.IsQualifiedName): an optional DNS subdomain of at
// most 253 bytes and a slash, then a name of at most 63 bytes.
func isLabelKey(key string) bool {
	prefix, name, ok := strings.Cut(key, "/")
	if !ok {
		name = key
	} else {
		if prefix == "" || len(prefix) > 253 {
			return false
		}
		for part := range strings.SplitSeq(prefix, ".") {
			if part == "" || !all(part, isLowerAlnumDash) || part[0] == '-' || part[len(part)-1] == '-' {
				return false
			}
		}
	}
	return len(name) >= 1 && len(name) <= 63 && isAlnum(name[0]) && isAlnum(name[len(name)-1]) &&
		all(name, func(c byte) bool { return isAlnum(c) || c == '-' || c == '_' || c == '.' })
}

// isPortName reports whether name is an IANA service name (RFC 6335, as the API
// uses it): 1 to 15 of a-z, 0-9 and single inner dashes, with at least one letter.
func isPortName(name string) bool {
	return len(name) >= 1 && len(name) <= 15 && all(name, isLowerAlnumDash) &&
		name[0] != '-' && name[len(name)-1] != '-' && !strings.Contains(name, "--") &&
		strings.ContainsFunc(name, func(r rune) bool { return r >= 'a' && r <= 'z' })
}

// IsDNSLabel reports whether name is a DNS label (RFC 1123) as container names are.
func IsDNSLabel(name string) bool {
	return len(name) >= 1 && len(name) <= 63 && all(name, isLowerAlnumDash) &&
		name[0] != '-' && name[len(name)-1] != '-'
}

// isVisible reports whether s has 1 to most bytes, all of them visible ASCII.
func isVisible(s string, most int) bool {
	return len(s) >= 1 && len(s) <= most && all(s, func(c byte) bool { return c > ' ' && c < 0x7f })
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isLowerAlnumDash(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
