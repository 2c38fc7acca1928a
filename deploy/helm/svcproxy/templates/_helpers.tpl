{{- define "svcproxy.name" -}}
{{- if contains "svcproxy" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-svcproxy{{ end -}}
{{- end }}

{{- /* As in the kustomize base: the selector of a DaemonSet cannot be changed. Two releases in one
namespace make no sense anyway: only one svcproxy can run on a node. */}}
{{- define "svcproxy.selector" -}}
app.kubernetes.io/name: svcproxy
{{- end }}

{{- define "svcproxy.labels" -}}
{{ include "svcproxy.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "svcproxy.config" -}}
{{- $config := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" }}
{{- $_ := set $config "mode" .Values.mode }}
{{- $_ := set $config "clientConnection" (dict "kubeconfig" "/etc/svcproxy/kubeconfig.conf") }}
{{- if .Values.metrics.serviceMonitor.enabled }}
{{- $_ := set $config "metricsBindAddress" "0.0.0.0:10249" }}
{{- end }}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- /* The settings that take effect only at a start; svcproxy applies all others while it runs. A
change of these rolls the pods. */}}
{{- define "svcproxy.restart" -}}
{{- $config := include "svcproxy.config" . | fromYaml }}
{{- pick $config "mode" "hostnameOverride" "healthzBindAddress" "metricsBindAddress" | toYaml }}
kubeconfig: {{ dig "clientConnection" "kubeconfig" "" $config }}
logging: {{ pick (get $config "logging" | default dict) "format" "verbosity" | toJson }}
apiServer: {{ .Values.apiServer }}
{{- end }}
