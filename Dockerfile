# syntax=docker/dockerfile:1

# The same image is made without Docker by "make image". For production pin both by digest: --build-arg GO_IMAGE=golang:…@sha256:…
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG BASE_IMAGE=scratch

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY *.go ./
COPY audit audit
COPY certs certs
COPY check check
COPY findings findings
COPY inject inject
COPY internal internal
COPY lease lease
COPY manifest manifest
COPY patches patches
COPY pdb pdb
COPY policy policy
COPY recycle recycle
COPY scalein scalein
COPY server server
COPY surge surge
COPY webhook webhook
COPY withdraw withdraw
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=${VERSION} -X main.commit=${COMMIT}" -o /evenkeel .

FROM ${BASE_IMAGE}
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=evenkeel \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${COMMIT}
COPY --from=build /evenkeel /evenkeel
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/evenkeel"]
