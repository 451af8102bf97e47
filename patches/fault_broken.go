//go:build evenkeel_broken_patch

package patches

// addFault breaks every patch, to show that the safeguard holds.
func addFault(in *input, out *output) {
	out.add(in.pod().path+"/spec/no/such/parent", "broken")
}
