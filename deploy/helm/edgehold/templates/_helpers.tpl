{{- define "edgehold.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "edgehold.full" -}}
{{- if contains (include "edgehold.name" .) .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "edgehold.name" .) | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "edgehold.labels" -}}
app.kubernetes.io/name: {{ include "edgehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "edgehold.select" -}}
app.kubernetes.io/name: {{ include "edgehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* repository@digest where there is one, else repository:tag; the chart's own version by default */}}
{{- define "edgehold.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .chart.AppVersion }}{{ end }}
{{- end }}

{{- define "edgehold.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Anything else would open the key files to the group at every start, and then neither daemon would read them.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "edgehold.containerSecurity" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{/* Values as TOML: tables by name; what is in a table is a number, a text, a truth value, a list or an inline table */}}
{{- define "edgehold.toml" -}}
{{- range $table, $entries := . }}
[{{ $table }}]
{{- range $key, $value := $entries }}
{{ $key }} = {{ include "edgehold.tomlValue" $value }}
{{- end }}
{{ end }}
{{- end }}

{{- define "edgehold.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ $key | quote }} = {{ include "edgehold.tomlValue" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{- range $i, $one := . }}{{ if $i }}, {{ end }}{{ include "edgehold.tomlValue" $one }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}
