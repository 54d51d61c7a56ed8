"""Access to an API server: from inside a cluster, and by kubeconfig files of every plain kind."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra.kube import ConfigError, access
from nvdra.kube.credentials import TokenFile

TLS = Path(__file__).parents[2] / "contract" / "tls"
INSIDE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def write(folder: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> str:
    cluster = {"server": "https://127.0.0.1:6443/", "certificate-authority": str(TLS / "ca.crt"), **(cluster or {})}
    document = {
        "current-context": "here",
        "clusters": [{"name": "other", "cluster": {}}, {"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))  # JSON is YAML
    return str(path)


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes((TLS / "ca.crt").read_bytes())
    (tmp_path / "token").write_text("one\n")
    return tmp_path


def test_inside_a_cluster_two_variables_and_two_files_suffice(account: Path) -> None:
    found = access("", INSIDE, str(account))
    assert found.server == "https://10.96.0.1:443"
    assert found.credentials.header() == "Bearer one"
    assert found.tls is not None
    assert len(found.tls.get_ca_certs()) == 1
    assert access("", {**INSIDE, "KUBERNETES_SERVICE_HOST": "fd00::1"}, str(account)).server == "https://[fd00::1]:443"


@pytest.mark.parametrize("missing", list(INSIDE))
def test_outside_a_cluster_the_next_step_is_said(missing: str, account: Path) -> None:
    with pytest.raises(ConfigError, match="give --kubeconfig"):
        access("", {key: value for key, value in INSIDE.items() if key != missing}, str(account))


@pytest.mark.parametrize(("file", "content"), [("token", None), ("token", ""), ("ca.crt", None), ("ca.crt", "x")])
def test_an_account_that_cannot_be_used_is_named(file: str, content: str | None, account: Path) -> None:
    (account / file).unlink()
    if content is not None:
        (account / file).write_text(content)
    with pytest.raises(ConfigError, match=file):
        access("", INSIDE, str(account))


async def test_a_token_file_is_read_again_when_the_server_refuses_the_token(account: Path) -> None:
    credentials = access("", INSIDE, str(account)).credentials
    assert not await credentials.renew()  # nothing new: no use in asking again
    (account / "token").write_text("two")
    assert credentials.header() == "Bearer one"
    assert await credentials.renew()
    assert credentials.header() == "Bearer two"
    (account / "token").unlink()
    assert not await credentials.renew()
    assert credentials.header() == "Bearer two"


async def test_a_token_file_that_changed_is_seen_after_a_while(account: Path) -> None:
    now = [1000.0]
    credentials = TokenFile(str(account / "token"), now=lambda: now[0])
    (account / "new").write_text("two")
    os.replace(account / "new", account / "token")
    assert credentials.header() == "Bearer one"
    now[0] += 11
    assert credentials.header() == "Bearer two"


def test_a_plain_token(tmp_path: Path) -> None:
    found = access(write(tmp_path, {"token": "secret"}), {})
    assert found.server == "https://127.0.0.1:6443"
    assert found.credentials.header() == "Bearer secret"


async def test_a_token_file_goes_before_a_token_which_bears_until_the_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    path = write(tmp_path, {"tokenFile": "token", "token": "inline"})
    assert access(path, {}).credentials.header() == "Bearer from-file"
    (tmp_path / "token").unlink()
    credentials = access(path, {}).credentials
    assert credentials.header() == "Bearer inline"
    (tmp_path / "token").write_text("from-file")
    assert await credentials.renew()
    assert credentials.header() == "Bearer from-file"


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com, 10.96.0.0/12"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.97.0.0/16"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "10.96.0.1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "10.96.0.1:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "10.96.0.1:6443"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "127.0.0.1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "localhost"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "fd00::1", "NO_PROXY": "fd00::/8"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "a.b.svc", "NO_PROXY": ".svc"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "a.b.svc", "NO_PROXY": "b.svc"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "a.b.svc", "NO_PROXY": "*.b.svc:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "KUBERNETES_SERVICE_HOST": "ab.svc", "NO_PROXY": "b.svc"}, "http://p:1"),
    ],
)
def test_a_proxy_of_the_environment_is_taken_as_go_programs_take_it(
    variables: dict[str, str], proxy: str | None, account: Path
) -> None:
    assert access("", {**INSIDE, **variables}, str(account)).proxy == proxy


def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(account: Path) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: a proxy of the kind socks5") as caught:
        access("", {**INSIDE, "HTTPS_PROXY": "socks5://me:secret@proxy"}, str(account))
    assert "secret" not in str(caught.value)


def test_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    (tmp_path / "ca.crt").write_bytes((TLS / "ca.crt").read_bytes())
    found = access(write(tmp_path, {"tokenFile": "token"}, {"certificate-authority": "ca.crt"}), {})
    assert found.credentials.header() == "Bearer from-file"
    assert found.tls is not None
    assert found.tls.get_ca_certs()


def test_inline_certificates_and_a_proxy(tmp_path: Path) -> None:
    encoded = {name: base64.b64encode((TLS / name).read_bytes()).decode() for name in os.listdir(TLS)}
    user = {"client-certificate-data": encoded["client.crt"], "client-key-data": encoded["client.key"]}
    more = {"certificate-authority-data": encoded["ca.crt"], "certificate-authority": "/nowhere"}
    found = access(write(tmp_path, user, {**more, "proxy-url": "http://proxy:3128", "tls-server-name": "api.test"}), {})
    assert found.credentials.header() == ""
    assert (found.proxy, found.server_name) == ("http://proxy:3128", "api.test")


def test_a_password_is_basic(tmp_path: Path) -> None:
    found = access(write(tmp_path, {"username": "me", "password": "pw"}), {})
    assert found.credentials.header() == "Basic bWU6cHc="


@pytest.mark.parametrize(
    ("user", "cluster", "text"),
    [
        *(
            ({}, {"server": server}, "not an http or https URL")
            for server in ("127.0.0.1:6443", "https://", "https://[x", "https://h:99999", "https://h:x", "https://h:0")
        ),
        ({}, {"certificate-authority": "/nowhere/ca.crt"}, "/nowhere/ca.crt"),
        ({}, {"certificate-authority-data": "%%%"}, "certificate-authority-data"),
        ({"client-certificate": "/nowhere/c", "client-key": "/nowhere/k"}, {}, "client certificate"),
        ({"tokenFile": "/nowhere/token"}, {}, "/nowhere/token"),
        ({"client-certificate": str(TLS / "client.crt"), "client-key": str(TLS / "server.key")}, {}, "client.crt"),
        ({"client-key": "k"}, {}, "a client key but no client certificate"),
        ({"client-certificate": "c", "client-key": "k"}, {"server": "http://x"}, "needs a server with https"),
        ({"password": "pw"}, {}, "a password but no username"),
        ({"username": "me", "token": "t"}, {}, "a username and a token"),
        ({"as-groups": ["g"]}, {}, "as-groups but not as"),
        ({"as": "jane", "as-groups": "g"}, {}, "as-groups must be a list"),
        ({"as": "jane", "as-groups": [1]}, {}, "as-groups is a list of texts"),
        ({"as": "jane", "as-user-extra": {"scope": "a"}}, {}, "scope is a list of texts"),
        ({"tokenfile": "t"}, {}, 'user "u" has the unknown field tokenfile'),
        ({"impersonate": "jane"}, {}, 'user "u" has the unknown field impersonate'),
        ({"token": 123}, {}, "token must be a text"),
        ({}, {"insecure-skip-tls-verify": "false"}, "insecure-skip-tls-verify must be true or false"),
        ({}, {"insecure-skip-tls-verify": True}, "exclude each other"),
        ({}, {"api-version": "v1"}, 'cluster "c" has the unknown field api-version'),
        ({}, {"proxy-url": "socks5://proxy:1080"}, "proxy-url: a proxy of the kind socks5 cannot be used"),
        ({}, {"proxy-url": "https://proxy"}, "proxy-url: a proxy of the kind https cannot be used"),
        ({}, {"proxy-url": "proxy:3128"}, "proxy-url: a proxy of the kind proxy cannot be used"),
        ({}, {"proxy-url": "http://proxy:port"}, "proxy-url: not a URL"),
        ({}, {"proxy-url": "http://:3128"}, "proxy-url: the URL has no host"),
    ],
)
def test_what_cannot_be_used_is_named(user: Any, cluster: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        access(write(tmp_path, user, cluster), {})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "not a YAML mapping"),
        ("{}", 'no entry "" in contexts'),
        ("current-context: a\ncurrentContext: b", "the file has the unknown field currentContext"),
        ("kind: Secret", 'kind is "Secret"'),
        ("apiVersion: v2", 'apiVersion is "v2"'),
        ("contexts: {a: {}}", "contexts must be a list"),
        ("current-context: a\ncontexts: [{name: a, context: {kluster: c}}]", "the unknown field kluster"),
        ('{"a":' * 100_000, "cannot be read"),
        ("current-context: a\ncontexts: [{name: b, context: {}}]", 'no entry "a" in contexts'),
        ("current-context: a\ncontexts: [{name: a, context: {cluster: c}}]", 'no entry "c" in clusters'),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(content: str | None, text: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=text) as caught:
        access(str(path), {})
    assert str(path) in str(caught.value)


async def test_a_login_program_runs_again_when_its_token_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        '#!/bin/sh\necho x >> "$0.count"\nN=$(wc -l < "$0.count")\n'
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",\\"kind\\":\\"ExecCredential\\",'
        '\\"status\\":{\\"token\\":\\"t$((N+0))\\"}}"\n'
    )
    program.chmod(0o755)
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    credentials = access(write(tmp_path, {"exec": login}), {}).credentials
    assert credentials.header() == "Bearer t1"
    assert await credentials.renew()
    assert credentials.header() == "Bearer t2"


def test_a_login_program_that_fails_is_an_error_for_people(tmp_path: Path) -> None:
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/login"}
    with pytest.raises(ConfigError, match="login"):
        access(write(tmp_path, {"exec": login}), {})


def test_plain_kubeconfigs_do_not_import_the_library(tmp_path: Path) -> None:
    path = write(tmp_path, {"token": "secret"})
    script = f"import sys; from nvdra.kube import access; access({path!r}, {{}}); print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("form", ["json", "yaml", "flow"])
def test_a_kubeconfig_is_yaml_and_only_json_goes_without_its_reader(form: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"token": "secret"}))
    if form != "json":
        path.write_text(yaml.safe_dump(json.loads(path.read_text()), default_flow_style=form == "flow"))
    script = f"import sys; from nvdra.kube import access; found = access({str(path)!r}, {{}}); "
    script += "print(found.server, found.credentials.header(), 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["https://127.0.0.1:6443", "Bearer", "secret", str(form != "json")]
