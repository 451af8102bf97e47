// Package svg draws the plots of reports.
package svg

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A Drawing is an SVG that grows by elements. Positions and sizes are in pixels.
type Drawing struct{ text strings.Builder }

// New returns a white drawing.
func New(width, height float64) *Drawing {
	d := &Drawing{}
	fmt.Fprintf(&d.text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" `+
		`font-family="sans-serif" font-size="12" fill="#333">`+"\n", width, height, width, height)
	d.Box(0, 0, width, height, "#fff")
	return d
}

// Text writes text. anchor says what of it is at x: start, middle or end. style holds further
// attributes.
func (d *Drawing) Text(x, y float64, anchor, style, text string) {
	fmt.Fprintf(&d.text, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n",
		x, y, anchor, style, html.EscapeString(text))
}

// Line draws a line. style holds its attributes.
func (d *Drawing) Line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(&d.text, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
}

// Hatch defines a hatched fill, which differs from every plain one without its colour. Box calls it url(#name).
func (d *Drawing) Hatch(name, colour string) {
	fmt.Fprintf(&d.text, `<defs><pattern id="%s" width="5" height="5" patternUnits="userSpaceOnUse" `+
		`patternTransform="rotate(45)"><rect width="5" height="5" fill="%s"/><rect width="1.4" height="5" fill="#fff"/>`+
		"</pattern></defs>\n", name, colour)
}

// Box fills a rectangle.
func (d *Drawing) Box(x, y, width, height float64, fill string) {
	fmt.Fprintf(&d.text, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, fill)
}

// A Point is a position.
type Point struct{ X, Y float64 }

// Polygon fills the area within points.
func (d *Drawing) Polygon(points []Point, fill string) {
	d.shape("polygon", points, fmt.Sprintf(`fill="%s"`, fill))
}

// Curve draws a line through points. style holds its attributes.
func (d *Drawing) Curve(points []Point, style string) {
	d.shape("polyline", points, `fill="none" `+style)
}

func (d *Drawing) shape(element string, points []Point, style string) {
	fmt.Fprintf(&d.text, `<%s points="`, element)
	for i, p := range points {
		if i > 0 {
			d.text.WriteByte(' ')
		}
		fmt.Fprintf(&d.text, "%.1f,%.1f", p.X, p.Y)
	}
	fmt.Fprintf(&d.text, `" %s/>`+"\n", style)
}

// String returns the drawing as it is.
func (d *Drawing) String() string { return d.text.String() + "</svg>\n" }

// Step rounds the distance of two marks on an axis up to 1, 2 or 5 times a power of ten, at least 0.1.
func Step(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(v, 0.1))))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= v {
			return factor * power
		}
	}
	return 10 * power
}
