package check

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/pause"
	"github.com/evenkeel/evenkeel/internal/words"
)

// Run looks at the cluster until nothing fails, or until it has waited for long enough.
func Run(ctx context.Context, client kubernetes.Interface, scope Scope, atMost time.Duration) ([]Result, error) {
	const between = 2 * time.Second
	judge := Judge
	if scope.Before {
		judge = JudgeBefore
	}
	for deadline := time.Now().Add(atMost); ; pause.For(ctx, between) {
		scope.Now = time.Now()
		results := judge(Read(ctx, client, scope))
		if ctx.Err() != nil || Worst(results) != Failed || time.Now().Add(between).After(deadline) {
			return results, ctx.Err()
		}
	}
}

// Text writes a line for each result, and one for what to do.
func Text(source string, results []Result, colored bool) []byte {
	colors := map[Status]string{OK: words.Green, Failed: words.Red}
	var b bytes.Buffer
	fmt.Fprintf(&b, "evenkeel in %s\n\n", words.Printable(source))
	for _, r := range results {
		status := fmt.Sprintf("%-8s", r.Status)
		if colored {
			status = words.Paint(cmp.Or(colors[r.Status], words.Yellow), status)
		}
		fmt.Fprintf(&b, "%s %-13s %s\n", status, r.Check, words.Printable(r.Text))
		if r.Advice != "" {
			fmt.Fprintf(&b, "%22s %s\n", "", "-> "+words.Printable(r.Advice))
		}
	}
	count := func(s Status) int {
		return len(slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Status != s }))
	}
	fmt.Fprintf(&b, "\n%d ok, %d failed, %d with a warning, %d unknown\n",
		count(OK), count(Failed), count(Warning), count(Unknown))
	return b.Bytes()
}
