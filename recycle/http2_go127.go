//go:build go1.27

package recycle

import "net/http"

// setSince127 copies the settings for HTTP/2 that http.Server has since Go 1.27.
func setSince127(own, server *http.Server) {
	own.MaxHeaderValueCount = server.MaxHeaderValueCount
	own.DisableClientPriority = server.DisableClientPriority
}
