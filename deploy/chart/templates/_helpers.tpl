{{- /* Labels of every object. The selector of the pods is the name alone, as everywhere in deploy/. */ -}}
{{- define "evenkeel.labels" -}}
app.kubernetes.io/name: evenkeel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "evenkeel.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* Namespaces that are never looked at, beside kube-system and our own. */ -}}
{{- define "evenkeel.exempt" -}}
{{- $exempt := .Values.namespaces.exempt -}}
{{- if eq .Values.failurePolicy "Fail" -}}
{{- $exempt = concat (list "cert-manager" "kube-node-lease" "kube-public") $exempt | uniq -}}
{{- end -}}
{{ toJson $exempt }}
{{- end -}}

{{- define "evenkeel.namespaceSelector" -}}
{{- $exempt := include "evenkeel.exempt" . | fromJsonArray -}}
{{- if eq .Values.namespaces.mode "opt-in" -}}
matchLabels:
  evenkeel.dev/inject: enabled
{{ end -}}
matchExpressions:
{{- if eq .Values.namespaces.mode "opt-out" }}
  - key: evenkeel.dev/inject
    operator: NotIn
    values: [disabled]
{{- end }}
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system, {{ .Release.Namespace }}]
{{- if $exempt }}
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: {{ toJson $exempt }}
{{- end }}
{{- end -}}

{{- /* The same as a flag, where it isn't the flag's default. */ -}}
{{- define "evenkeel.namespaceSelectorFlag" -}}
{{- $exempt := include "evenkeel.exempt" . | fromJsonArray -}}
{{- $never := concat (list "kube-system" .Release.Namespace) $exempt | uniq -}}
{{- if eq .Values.namespaces.mode "opt-out" -}}
--namespace-selector=evenkeel.dev/inject!=disabled,kubernetes.io/metadata.name notin ({{ join "," $never }})
{{- else if $exempt -}}
--namespace-selector=evenkeel.dev/inject=enabled,kubernetes.io/metadata.name notin ({{ join "," $never }})
{{- end -}}
{{- end -}}

{{- define "evenkeel.webhook" -}}
admissionReviewVersions: [v1]
clientConfig:
  service:
    namespace: {{ .Release.Namespace }}
    name: evenkeel
    path: /mutate
    port: 443
  {{- if eq .Values.certificates.source "secret" }}
  caBundle: {{ .Values.certificates.caBundle }}
  {{- end }}
failurePolicy: {{ .Values.failurePolicy }}
timeoutSeconds: {{ .Values.timeoutSeconds | default (ternary 5 2 (eq .Values.failurePolicy "Fail")) }}
reinvocationPolicy: IfNeeded
sideEffects: None
matchPolicy: Equivalent
namespaceSelector:
  {{- include "evenkeel.namespaceSelector" . | nindent 2 }}
{{- end -}}
