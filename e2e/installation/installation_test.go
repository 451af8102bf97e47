package installation

import "testing"

// Replicas are prepared before any of them listens: an address that two got made one of them answer for both.
func TestNoAddressIsGivenTwice(t *testing.T) {
	addresses := map[string]bool{}
	for range 300 {
		address, err := FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		if addresses[address] {
			t.Fatalf("%s is given twice", address)
		}
		addresses[address] = true
	}
}
