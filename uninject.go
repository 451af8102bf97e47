package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/evenkeel/evenkeel/inject"
)

const uninjectHelp = `Take back from manifests, or from objects of a cluster, what evenkeel has added.

The annotation evenkeel.dev/injected on the pod template says what evenkeel has added.
That is removed, and nothing else: what somebody has changed since stays. Settings and
the label evenkeel.dev/inject stay too, so the next "inject", or the webhook, adds the
defaults again; to be without them, set each setting to off, or the label to disabled.

What "inject" has added to a manifest comes out such that the manifest is what it was,
byte for byte: "inject" keeps a null that was written out as a comment ("affinity: # null"),
and an alias or a merge key that an addition leads through ("template: # evenkeel: *web").
A document that "inject" had to format anew, as its warning says, has its former lines
as comments at its end, and gets them back. If it was edited since, it keeps the new
format without those comments, and a warning says so.
PodDisruptionBudgets of "inject --with-budgets" are objects of their own; delete them.

Input and output formats are those of "inject".`

const uninjectExamples = `  # What would be taken back?
  {{program}} uninject -o diff deploy.yaml

  # Take it back from what runs, and keep the webhook from adding it again. This restarts the pods.
  kubectl label deploy web evenkeel.dev/inject=disabled
  kubectl get deploy web -o yaml | {{program}} uninject - | kubectl replace -f -`

// uninjectOptions are the flags of uninject.
type uninjectOptions struct {
	input  inputFlags
	format formatFlag
	quiet  bool
}

func newUninjectCommand(program string) *cobra.Command {
	var o uninjectOptions
	command := &cobra.Command{
		Use:     "uninject [-f] FILE|DIRECTORY|-...",
		Short:   "Take back from manifests what evenkeel has added",
		Long:    uninjectHelp,
		Example: strings.ReplaceAll(uninjectExamples, "{{program}}", program),
		RunE: func(command *cobra.Command, args []string) error {
			o.input.files = append(o.input.files, args...)
			return interruptible(command.Context(), func() error { return o.run(command) })
		},
	}
	fs := command.Flags()
	fs.SortFlags = false
	o.input.register(fs)
	o.format.register(command, inject.Formats)
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "No report; warnings and errors only.")
	return command
}

func (o *uninjectOptions) run(command *cobra.Command) error {
	if err := o.format.check(); err != nil {
		return err
	}
	files, err := o.input.read(command)
	if err != nil {
		return err
	}
	result, err := inject.Undo(command.Context(), files)
	if err != nil {
		return err
	}
	return writeResult(command, result, o.format.output, inject.Style{Quiet: o.quiet})
}
