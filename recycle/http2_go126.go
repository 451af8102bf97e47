//go:build !go1.27

package recycle

import "net/http"

// setSince127 does nothing: http.Server has the settings since Go 1.27.
func setSince127(_, _ *http.Server) {}
