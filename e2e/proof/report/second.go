package report

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// maxDisputed is the number of requests, of all that the two counts don't agree on, that are described.
const maxDisputed = 10

// ReadAnswers reads the servers' logs: a file for each pod with the ids of the requests that it has answered. It
// returns the pods by id.
func ReadAnswers(dir string) (map[string][]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	answers := map[string][]string{}
	for _, e := range entries {
		file, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			answers[lines.Text()] = append(answers[lines.Text()], e.Name())
		}
		_ = file.Close() // only read
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// CountAgain counts what servers answered, by their own logs, and compares it with what clients received, request by
// request: an answer that a client has is in the log of the pod that it names, once and nowhere else; no request is
// answered twice. An answer that is only in a log did not arrive, and its client counts a failure.
func (o *Outcome) CountAgain(answers map[string][]string) {
	disputed := 0
	for _, r := range o.Records {
		pods := answers[r.ID]
		s := o.Sides[o.Targets[r.Target].Side]
		if len(pods) > 0 {
			s.Answered++
		}
		switch {
		case r.Cause == "" && slices.Equal(pods, []string{r.Pod}), r.Cause != "" && len(pods) == 0:
			continue
		case r.Cause != "" && len(pods) == 1:
			s.Unreceived++
			continue
		}
		s.Disputed++
		if disputed++; disputed <= maxDisputed {
			client := fmt.Sprintf("the client has an answer of %q", r.Pod)
			if r.Cause != "" {
				client = "the client has none: " + r.Cause
			}
			t := o.Targets[r.Target]
			o.Disputed = append(o.Disputed, fmt.Sprintf("%s, %s, request %s: %s; in the logs of %q", t.Server,
				o.Clients[r.Client], r.ID, client, pods))
		}
	}
	if disputed > maxDisputed {
		o.Disputed = append(o.Disputed, fmt.Sprintf("and %d more", disputed-maxDisputed))
	}
}
