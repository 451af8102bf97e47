package patches

import (
	"fmt"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// Note is what was noticed of a workload that runs. It holds for as long as ports and probes of its
// containers are those that it was noticed of.
type Note struct {
	// Code is SkipProbeFailed or SkipResetAgain.
	Code Skip
	// Containers is the fingerprint of what a guess rests on; see Guess.
	Containers uint64
}

// noticed returns the code of the note that holds for o, SkipNone without one.
func (o *object) noticed(req *Request) Skip {
	if req.Noted == nil || o.kind == "Pod" {
		return SkipNone
	}
	note, ok := req.Noted(o.kind, o.meta.name)
	if !ok {
		return SkipNone
	}
	if print, err := o.containersPrint(); err != nil || print != note.Containers {
		return SkipNone
	}
	return note.Code
}

// guessedFrom are the members of a container that a guess rests on. An image isn't one of them: a
// manifest that is applied again to go back has an earlier one.
var guessedFrom = []string{"name", "ports", "readinessProbe", "livenessProbe", "startupProbe"}

// containersPrint returns the fingerprint of what people wrote of the containers that a guess rests on,
// after split.
func (o *object) containersPrint() (uint64, error) {
	s, err := scan.New(o.template)
	if err != nil {
		return 0, err
	}
	p := printer{&s}
	print := uint64(0)
	err = s.Members(templateMembers, func(name string) error {
		if name != "spec" {
			_, err := s.Skip()
			return err
		}
		return s.Members([]string{"containers"}, func(string) (err error) {
			if s.Next() != '[' {
				_, err = s.Skip()
				return err
			}
			print, err = p.containers(&o.pod, guessedFrom...)
			return err
		})
	})
	return print, err
}

// probed reports whether a probe of ours stands.
func (p *podTemplate) probed() bool {
	for i := range p.containers {
		if p.containers[i].ourProbe != nil {
			return true
		}
	}
	return false
}

// Guess is what evenkeel has guessed for a workload.
type Guess struct {
	// Containers are the names of those with a guessed readiness probe that stands.
	Containers []string
	// Asked is set where the settings ask for a probe themselves, or for none: then none is
	// guessed.
	Asked bool
	// Fingerprint stands for names, ports and probes that people wrote of the containers. It is the
	// same with and without what evenkeel adds.
	Fingerprint uint64
}

// Guess returns what stands of guesses in a Deployment or StatefulSet, given the annotations of its
// Namespace. An error says that the object can't be read without doubt.
func (i *Injector) Guess(raw []byte, namespace map[string]string) (guess Guess, err error) {
	o, err := parse(raw)
	if err != nil {
		return Guess{}, fmt.Errorf("read object: object %w", err)
	}
	r, _ := readRecord(o.pod.meta.annotations[policy.InjectedAnnotation])
	o.split(&Request{}, r, nil)
	if guess.Fingerprint, err = o.containersPrint(); err != nil {
		return Guess{}, fmt.Errorf("read containers: %w", err)
	}
	p, _ := policy.Resolve(i.config.Base, i.config.Bounds,
		policy.Annotations{Source: policy.SourcePodTemplate, Values: o.pod.meta.annotations},
		policy.Annotations{Source: policy.SourceWorkload, Values: o.meta.annotations},
		policy.Annotations{Source: policy.SourceNamespace, Values: namespace})
	if guess.Asked = p.ReadinessProbe.Kind != policy.ProbeAuto; guess.Asked {
		return guess, nil
	}
	for k := range o.pod.containers {
		if c := &o.pod.containers[k]; c.ourProbe != nil {
			guess.Containers = append(guess.Containers, c.name)
		}
	}
	return guess, nil
}
