// Package certs provides the serving certificate of the webhook, in one of two
// ways: Files reads a pair that somebody else renews (cert-manager, a script), and
// SelfManaged needs nobody else.
//
// # Self-managed certificates
//
// A Secret holds certificate authorities, newest first, each with its key. Every
// replica signs a short-lived serving certificate for itself, in memory: its key
// is never written anywhere. The leader alone writes: it keeps the Secret usable,
// and the caBundle of every webhook of the webhook configuration equal to the
// authorities of the Secret.
//
// An authority is replaced without a gap, whoever is killed at whichever step,
// since no step depends on another replica being awake:
//
//	       Secret   caBundle   a replica signs with
//	         A         A        A
//	add     B A        A        A, since B is not in the bundle
//	publish B A       B A       A, until B has stood in the bundle for the settle time; then B
//	retire   B        B A       B
//	drop     B         B        B
//
// The one rule of a replica: sign with the newest authority that has stood in the
// bundle for the settle time, by its own monotonic clock, or else with the oldest
// one that stands there. An authority is retired no sooner than three settle times
// after its successor was published and one leaf lifetime after it was made: no
// certificate of its is valid any more, even where a replica was cut off.
//
// What is due is a pure function (plan) of the wall clock, the Secret, the bundle
// and how long the latter has stood. It is judged again at least every
// ten seconds and at every change, never by a timer over months, so that a
// suspended machine or a clock that was set is noticed at once. Serving
// certificates are judged at every handshake.
//
// A Secret that was deleted, emptied, corrupted or filled with something else is
// written again from what the leader has in memory; a leader that has nothing in
// memory makes a new authority and goes on to publish those of the bundle, with
// which other replicas still serve.
//
// # Why not cert-controller
//
// github.com/open-policy-agent/cert-controller does this for Gatekeeper and
// others. It replaces its CA in place: Secret and caBundle follow each other, and
// in between the API server trusts nobody who serves (its issue 13; Gatekeeper's
// issue 1045 and pull request 559 saw twenty seconds to a minute). The CA lives for
// ten years, which makes that rare and never rehearsed. The serving key lies in the
// Secret and reaches the pods through the kubelet's mount, a minute or more later.
// All replicas write at once (issue 44), and its readiness does not say whether the
// API server accepts the certificate. It also brings controller-runtime along. The
// dynamic authority of cert-manager, whose idea of a leaf that never leaves its
// process this is, replaces its CA in place as well, and signs with it before
// anybody trusts it.
package certs
