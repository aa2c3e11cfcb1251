# Any image with cargo and cc; tests/docker/builder-image makes one without a registry.
ARG BUILDER

FROM ${BUILDER:-rust:1.95-bookworm} AS build
WORKDIR /src
# Dependencies first, under empty sources: a layer that lasts until they change.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir bin src && touch src/lib.rs && echo 'fn main() {}' > src/build.rs \
 && for name in discovery cell mesh; do echo 'fn main() {}' > bin/aios-$name.rs; done \
 && cargo static
COPY . .
# COPY keeps the files' times, which are older than what was just built.
RUN touch src/*.rs bin/*.rs && cargo static --bin aios-discovery --bin aios-cell && mkdir /state

FROM scratch AS discovery
COPY --from=build /src/target/*/release/aios-discovery /
# A volume that is mounted here begins with this folder's owner.
COPY --from=build --chown=65532:65532 /state /var/lib/aios-mesh
USER 65532:65532
EXPOSE 8001
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 CMD ["/aios-discovery", "--check"]
ENTRYPOINT ["/aios-discovery"]

FROM scratch AS cell
COPY --from=build /src/target/*/release/aios-cell /
USER 65532:65532
EXPOSE 8000 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 CMD ["/aios-cell", "--check"]
ENTRYPOINT ["/aios-cell"]
