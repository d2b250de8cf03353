# The gateway as an image: built in the first stage, run as an ordinary user in the second.
FROM rust:1.95-bookworm AS build
# zlib-ng, which Pingora compresses with, is built by cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin tollgate && cp target/release/tollgate /usr/local/bin/

FROM debian:bookworm-slim
# Root certificates for servers reached over https.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --no-create-home --shell /usr/sbin/nologin tollgate \
    && install -d -o tollgate -g tollgate -m 0700 /var/lib/tollgate
COPY --from=build /usr/local/bin/tollgate /usr/local/bin/tollgate
# Mount your own folder over this one: a mounted single file would not be seen to change.
COPY conf/tollgate.yaml catalog.yaml /etc/tollgate/
USER 1000:1000
# Loopback is the container's own: without a credential in tollgate.yaml the gateway keeps to it whatever it is told, its
# health check is content, and nobody outside reaches it. With a credential it listens here.
ENV TOLLGATE_LISTEN=0.0.0.0:4444 TOLLGATE_STATE_DIR=/var/lib/tollgate
WORKDIR /var/lib/tollgate
VOLUME /var/lib/tollgate
EXPOSE 4444
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["tollgate", "healthcheck", "-c", "/etc/tollgate/tollgate.yaml"]
ENTRYPOINT ["tollgate"]
CMD ["run", "-c", "/etc/tollgate/tollgate.yaml", "--catalog", "/etc/tollgate/catalog.yaml"]
