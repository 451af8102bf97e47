package recycle

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	library "github.com/evenkeel/evenkeel/recycle"
)

// TestJitter opens many connections at once, each with a steady trickle of requests, and watches
// when they end, with jitter and without. Each connection that ends is followed by a new one, as a
// client would do.
func TestJitter(t *testing.T) {
	clients, pause := pick(50, 500), pick(20*time.Millisecond, 250*time.Millisecond)
	age, duration := pick(time.Second, 20*time.Second), pick(3*time.Second, 90*time.Second)
	variants := []struct {
		title  string
		jitter float64
	}{{"without jitter", library.NoJitter}, {"with the default jitter, 0.2", 0}, {"with jitter 0.5", 0.5}}
	type ending struct{ at, age time.Duration }
	endings := make([][]ending, len(variants))

	t.Run("run", func(t *testing.T) {
		for v, variant := range variants {
			t.Run(variant.title, func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var ended []ending
				begin := time.Now()
				server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
				_, err := library.Wrap(server, library.Options{MaxAge: age, Jitter: variant.jitter,
					OnClose: func(c library.Closed) {
						if c.Reason == library.Age {
							mu.Lock()
							defer mu.Unlock()
							ended = append(ended, ending{time.Since(begin), c.Age})
						}
					}})
				if err != nil {
					t.Fatal(err)
				}
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				go func() { _ = server.Serve(l) }()
				defer server.Close()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						client := newClient(http1)
						defer client.CloseIdleConnections()
						for next := begin.Add(pause * time.Duration(i) / time.Duration(clients)); time.Since(begin) < duration; next =
							next.Add(pause) {
							time.Sleep(time.Until(next))
							if _, err := fetch(t.Context(), client, http.MethodGet, "http://"+l.Addr().String(), nil); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				mu.Lock() // connections go on ending
				defer mu.Unlock()
				endings[v] = slices.Clone(ended)
			})
		}
	})

	most := make([]int, len(variants))
	var plots []panel
	for v, variant := range variants {
		perSecond := make([]float64, int(duration/time.Second)+2)
		lifetimes := make([]float64, 60) // of the limit, in steps of 2 %
		var ages []time.Duration
		for _, e := range endings[v] {
			perSecond[int(e.at/time.Second)]++
			lifetimes[min(int(e.age*50/age), 59)]++
			ages = append(ages, e.age)
		}
		if len(ages) == 0 {
			t.Fatal("no connection has ended")
		}
		slices.Sort(ages)
		// The largest number in any second, wherever that begins.
		slices.SortFunc(endings[v], func(a, b ending) int { return int(a.at - b.at) })
		for first, last := 0, 0; last < len(endings[v]); last++ {
			for endings[v][last].at-endings[v][first].at >= time.Second {
				first++
			}
			most[v] = max(most[v], last-first+1)
		}
		text := fmt.Sprintf("%s: %d ended, lifetimes %.1f to %.1f s, most in any second: %d", variant.title, len(ages),
			ages[0].Seconds(), ages[len(ages)-1].Seconds(), most[v])
		t.Log(text)
		plots = append(plots, panel{title: text, bars: perSecond[:int(duration/time.Second)], side: lifetimes})
	}
	if long() && most[1]*2 > most[0] {
		t.Errorf("%d in a second with jitter, %d without", most[1], most[0])
	}
	writePlot(t, "recycling-jitter.svg", jitterPlot(plots, clients, age))
}
