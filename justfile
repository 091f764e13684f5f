# The recipes are the steps of continuous integration (.ci/run), one by one.

# List the recipes.
default:
    @just --list

# Everything that CI runs.
ci:
    ./.ci/run

# Start the whole thing locally: nats-server, broker, gateway and two services.
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

# All tests; end-to-end ones start their own nats-server.
test *ARGS:
    cargo test --workspace {{ARGS}}

fmt:
    cargo fmt --all
    cargo fmt --manifest-path tests/fuzz/Cargo.toml

lint:
    cargo fmt --all -- --check
    cargo fmt --manifest-path tests/fuzz/Cargo.toml -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, duplicate providers and the direction of dependencies.
deny:
    cargo deny --locked check bans licenses sources

# The public API of what users link, against its snapshots.
api:
    tests/api/run

# Writes these snapshots again, after a change of the API that is meant.
api-write:
    tests/api/run --write

# The test vectors of the envelope, by a reader in Python that knows SPEC.md only.
vectors:
    tests/python/run

# Writes the test vectors again, after a change of the format.
vectors-write:
    cargo run -p bulla-envelope --example vectors

# Some seconds of fuzzing for each decoder, or SECONDS for one TARGET.
fuzz SECONDS="4" TARGET="":
    tests/fuzz/run {{SECONDS}} {{TARGET}}

# 2,000 clients come at once while no broker is there; how long until all are in.
storm CLIENTS="2000":
    BULLA_STORM_CLIENTS={{CLIENTS}} cargo test -p bulla-tests --test attacks -- --nocapture attack_25

# The Helm chart: rendered by Helm's engine, held to the schemas of Kubernetes.
chart:
    python3 -m venv target/chart
    target/chart/bin/pip -q install helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml
    target/chart/bin/python broker/deploy/helm/check.py

# The edge, shot at by tools that are not ours: openapi, browser, slow, tls; or serve.
edge WHAT *ARGS:
    tests/edge/run {{WHAT}} {{ARGS}}

# Sealed messages beside raw NATS, in one run: all rows, or those whose names contain PARTS.
bench *PARTS:
    cargo bench -p bulla-benches --bench envelope -- {{PARTS}}
