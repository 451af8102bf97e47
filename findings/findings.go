// Package findings writes what is wrong with manifests in the formats of CI systems: the
// commands of GitHub's workflows, SARIF 2.1.0, and JUnit's XML.
package findings

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"strings"
)

// Formats are those that Encode knows.
var Formats = []string{"github", "sarif", "junit"}

// Finding is one thing that is wrong with one object.
type Finding struct {
	// File and Line are the place of the object; Line counts from 1.
	File string
	Line int
	// Object is the title of the object, as in "Deployment web".
	Object string
	// Code is that of a Rule.
	Code string
	// Text says what was found.
	Text string
}

// Rule explains a code.
type Rule struct {
	Code string
	// Text says in one sentence what is wrong, Advice what to do about it. Link tells more, "" where nothing does.
	Text, Advice, Link string
}

// Report is what came of some manifests.
type Report struct {
	// Version is that of evenkeel.
	Version string
	// Looked are the titles of all objects that were looked at, with their files: those without a finding passed.
	Looked   []Finding
	Findings []Finding
	// Rules are those of all codes among the findings.
	Rules []Rule
}

// Encode writes a report in a format.
func (r *Report) Encode(format string) ([]byte, error) {
	switch format {
	case "github":
		return r.github(), nil
	case "sarif":
		return r.sarif()
	case "junit":
		return r.junit()
	}
	return nil, fmt.Errorf("format %q is not known; allowed: %s", format, strings.Join(Formats, ", "))
}

// advice returns what to do about a code.
func (r *Report) advice(code string) string {
	for _, rule := range r.Rules {
		if rule.Code == code {
			return rule.Advice
		}
	}
	return ""
}

// github writes a workflow command for each finding, which GitHub shows beside the line
// (https://docs.github.com/actions/reference/workflow-commands-for-github-actions). Percent signs
// and line ends are escaped, in properties commas and colons too, so that no name can begin a
// command of its own.
func (r *Report) github() []byte {
	message := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	var b bytes.Buffer
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "::warning file=%s,line=%d,title=%s::%s\n", property.Replace(filepath.ToSlash(f.File)), f.Line,
			property.Replace("evenkeel: "+f.Code), message.Replace(f.Object+": "+f.Text+" "+r.advice(f.Code)))
	}
	return b.Bytes()
}

// The parts of SARIF 2.1.0 that are written (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
		Help  sarifText `json:"help"`
		Link  string    `json:"helpUri,omitempty"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
)

// sarif writes a log with one run.
func (r *Report) sarif() ([]byte, error) {
	run := sarifRun{Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "evenkeel", Version: r.Version, Rules: []sarifRule{}}
	for _, rule := range r.Rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules,
			sarifRule{ID: rule.Code, Short: sarifText{rule.Text}, Help: sarifText{rule.Advice}, Link: rule.Link})
	}
	for _, f := range r.Findings {
		var place sarifLocation
		place.Physical.Artifact.URI = uri(f.File)
		place.Physical.Region.StartLine = max(f.Line, 1)
		run.Results = append(run.Results, sarifResult{RuleID: f.Code, Level: "warning",
			Message: sarifText{f.Object + ": " + f.Text}, Locations: []sarifLocation{place}})
	}
	log := sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
	text, err := json.MarshalIndent(log, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write SARIF: %w", err)
	}
	return append(text, '\n'), nil
}

// uri returns a relative path as a URI reference: what has a meaning there is escaped.
func uri(path string) string {
	var b strings.Builder
	for _, c := range []byte(filepath.ToSlash(path)) {
		if c == '/' || c == '.' || c == '-' || c == '_' || c == '~' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' ||
			'A' <= c && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// The parts of JUnit's XML that are written, as Jenkins and GitLab read them.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"` // 0, which Jenkins requires
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name     string         `xml:"name,attr"`
		Class    string         `xml:"classname,attr"`
		Failures []junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// junit writes a suite for each file and a case for each object.
func (r *Report) junit() ([]byte, error) {
	var suites junitSuites
	for _, looked := range r.Looked {
		if n := len(suites.Suites); n == 0 || suites.Suites[n-1].Name != looked.File {
			suites.Suites = append(suites.Suites, junitSuite{Name: looked.File})
		}
		suite := &suites.Suites[len(suites.Suites)-1]
		one := junitCase{Name: looked.Object, Class: looked.File}
		for _, f := range r.Findings {
			if f.File == looked.File && f.Line == looked.Line && f.Object == looked.Object {
				one.Failures = append(one.Failures, junitFailure{Message: f.Text, Type: f.Code,
					Text: fmt.Sprintf("%s:%d: %s", f.File, f.Line, r.advice(f.Code))})
			}
		}
		suite.Tests++
		suites.Tests++
		if len(one.Failures) > 0 {
			suite.Failures++
			suites.Failures++
		}
		suite.Cases = append(suite.Cases, one)
	}
	text, err := xml.MarshalIndent(suites, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write JUnit: %w", err)
	}
	return append([]byte(xml.Header), append(text, '\n')...), nil
}
