package svg

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestADrawingIsXMLWhateverTheText(t *testing.T) {
	d := New(100, 50)
	d.Text(1, 2, "start", `font-size="10"`, `a <b> & "c"`)
	d.Text(1, 2, "end", "", "]]>")
	d.Line(0, 0, 1, 1, `stroke="#777"`)
	d.Polygon([]Point{{0, 0}, {1, 0.25}}, "#fff")
	d.Curve([]Point{{0, 0}}, `stroke="#777"`)
	var elements, texts []string
	for decoder := xml.NewDecoder(strings.NewReader(d.String())); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, d)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements = append(elements, token.Name.Local)
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" {
				texts = append(texts, text)
			}
		}
	}
	if diff := cmp.Diff([]string{"svg", "rect", "text", "text", "line", "polygon", "polyline"}, elements); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`a <b> & "c"`, "]]>"}, texts); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
	if !strings.Contains(d.String(), `points="0.0,0.0 1.0,0.2"`) {
		t.Errorf("no points in %s", d)
	}
}

func TestStepsAreRound(t *testing.T) {
	for v, want := range map[float64]float64{0: 0.1, 0.1: 0.1, 0.11: 0.2, 0.3: 0.5, 0.7: 1, 1: 1, 4: 5, 33: 50, 70: 100} {
		if got := Step(v); got < want*0.999 || got > want*1.001 {
			t.Errorf("step of %v is %v, want %v", v, got, want)
		}
	}
}
