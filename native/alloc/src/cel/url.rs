//! URLs by the rules of the Go environment, which are neither those of RFC 3986 nor those of browsers.

use std::net::IpAddr;

/// Where a text stands in a URL: each place escapes other bytes.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Path,
    Host,
    Zone,
    User,
    Query,
    Fragment,
}

/// A URL in parts; texts are bytes, since escapes may stand for any.
#[derive(Clone, Debug, Default)]
pub struct Url {
    pub scheme: String,
    opaque: String,
    user: Option<(Vec<u8>, Option<Vec<u8>>)>,
    pub host: Vec<u8>,
    path: Vec<u8>,
    raw_path: String,
    force_query: bool,
    omit_host: bool,
    query: String,
    fragment: Vec<u8>,
    raw_fragment: String,
}

impl Url {
    /// Whether the text is an absolute URL or path, as a request to a server names it.
    pub fn is_request(text: &str) -> bool {
        parse(text, true).is_some()
    }

    /// The URL of such a text.
    pub fn parse(text: &str) -> Option<Url> {
        parse(text, true)?;
        let (head, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = parse(head, false)?;
        url.fragment = unescape(fragment, Place::Fragment)?;
        if escape(&url.fragment, Place::Fragment) != fragment {
            url.raw_fragment = fragment.to_string();
        }
        Some(url)
    }

    pub fn hostname(&self) -> &[u8] {
        match split_port(&self.host) {
            Some((host, _)) => host,
            None => bare(&self.host),
        }
    }

    pub fn port(&self) -> &[u8] {
        split_port(&self.host).map_or(b"", |(_, port)| port)
    }

    pub fn escaped_path(&self) -> String {
        let kept = is_encoded(&self.raw_path, Place::Path)
            && unescape(&self.raw_path, Place::Path).as_deref() == Some(&self.path);
        match (&*self.raw_path, kept, &self.path[..]) {
            (raw, true, _) if !raw.is_empty() => raw.to_string(),
            (_, _, b"*") => "*".into(),
            (_, _, path) => escape(path, Place::Path),
        }
    }

    fn escaped_fragment(&self) -> String {
        let kept = is_encoded(&self.raw_fragment, Place::Fragment)
            && unescape(&self.raw_fragment, Place::Fragment).as_deref() == Some(&self.fragment);
        if kept && !self.raw_fragment.is_empty() {
            return self.raw_fragment.clone();
        }
        escape(&self.fragment, Place::Fragment)
    }

    /// Names with their values, in the order of their first appearance; pairs that cannot be read are left out.
    pub fn query(&self) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
        let mut found: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
        for pair in self
            .query
            .split('&')
            .filter(|p| !p.is_empty() && !p.contains(';'))
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) =
                (unescape(name, Place::Query), unescape(value, Place::Query))
            else {
                continue;
            };
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => found.push((name, vec![value])),
            }
        }
        found
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        if !self.scheme.is_empty() {
            text += &format!("{}:", self.scheme);
        }
        if !self.opaque.is_empty() {
            text += &self.opaque;
        } else {
            let has_authority = !self.host.is_empty() || self.user.is_some();
            if has_authority || !self.scheme.is_empty() && !self.omit_host {
                if has_authority || !self.path.is_empty() {
                    text += "//";
                }
                if let Some((name, password)) = &self.user {
                    text += &escape(name, Place::User);
                    if let Some(password) = password {
                        text += &format!(":{}", escape(password, Place::User));
                    }
                    text.push('@');
                }
                text += &escape(&self.host, Place::Host);
            }
            let path = self.escaped_path();
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                text.push('/');
            }
            if text.is_empty() && path.split('/').next().is_some_and(|s| s.contains(':')) {
                text += "./";
            }
            text += &path;
        }
        if self.force_query || !self.query.is_empty() {
            text += &format!("?{}", self.query);
        }
        if !self.fragment.is_empty() {
            text += &format!("#{}", self.escaped_fragment());
        }
        out.write_str(&text)
    }
}

fn parse(text: &str, is_request: bool) -> Option<Url> {
    let is_control = |b: u8| b < b' ' || b == 0x7f;
    if text.bytes().any(is_control) || text.is_empty() && is_request {
        return None;
    }
    let mut url = Url::default();
    if text == "*" {
        url.path = b"*".to_vec();
        return Some(url);
    }
    let (scheme, mut rest) = split_scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    if rest.ends_with('?') && rest.matches('?').count() == 1 {
        url.force_query = true;
        rest = &rest[..rest.len() - 1];
    } else if let Some((head, query)) = rest.split_once('?') {
        (rest, url.query) = (head, query.to_string());
    }
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_string();
            return Some(url);
        }
        let first = rest.split('/').next().unwrap_or("");
        if is_request || first.contains(':') {
            return None;
        }
    }
    let may_have_authority = !url.scheme.is_empty() || !is_request && !rest.starts_with("///");
    if let Some(after) = rest.strip_prefix("//").filter(|_| may_have_authority) {
        let end = after.find('/').unwrap_or(after.len());
        rest = &after[end..];
        authority(&mut url, &after[..end])?;
    } else if !url.scheme.is_empty() && rest.starts_with('/') {
        url.omit_host = true;
    }
    url.path = unescape(rest, Place::Path)?;
    if escape(&url.path, Place::Path) != rest {
        url.raw_path = rest.to_string();
    }
    Some(url)
}

/// The scheme, if the text begins with one, and the rest; nothing if the text begins with a colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return None,
            b':' => return Some((&text[..i], &text[i + 1..])),
            _ => return Some(("", text)),
        }
    }
    Some(("", text))
}

fn authority(url: &mut Url, text: &str) -> Option<()> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    url.host = parse_host(&url.scheme, host)?;
    if let Some(user) = user {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%".contains(c);
        if !user.chars().all(is_fine) {
            return None;
        }
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, Some(unescape(password, Place::User)?)),
            None => (user, None),
        };
        url.user = Some((unescape(name, Place::User)?, password));
    }
    Some(())
}

fn parse_host(scheme: &str, host: &str) -> Option<Vec<u8>> {
    match host.rfind('[') {
        Some(0) => {
            let end = host.rfind(']')?;
            let port = &host[end + 1..];
            let name = &host[1..end];
            if !is_port(port) {
                return None;
            }
            let plain = match name.find("%25") {
                Some(zone) => [
                    unescape(&name[..zone], Place::Host)?,
                    unescape(&name[zone..], Place::Zone)?,
                ]
                .concat(),
                None => unescape(name, Place::Host)?,
            };
            let text = std::str::from_utf8(&plain).ok()?;
            let (address, zone) = match text.split_once('%') {
                Some((address, zone)) => (address, Some(zone)),
                None => (text, None),
            };
            if !matches!(address.parse(), Ok(IpAddr::V6(_))) || zone == Some("") {
                return None;
            }
            let port = unescape(port, Place::Host)?;
            Some([b"[", &plain[..], b"]", &port[..]].concat())
        }
        Some(_) => None,
        None => {
            let colon = match scheme {
                "http" | "https" => host.find(':'),
                _ => host.rfind(':'),
            };
            if colon.is_some_and(|at| !is_port(&host[at..])) {
                return None;
            }
            unescape(host, Place::Host)
        }
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Host and port, if the host ends with a port.
fn split_port(host: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = host.iter().rposition(|b| *b == b':')?;
    let port = &host[colon + 1..];
    port.iter()
        .all(u8::is_ascii_digit)
        .then(|| (bare(&host[..colon]), port))
}

/// Without the brackets of an IPv6 address.
fn bare(host: &[u8]) -> &[u8] {
    match host {
        [b'[', inner @ .., b']'] => inner,
        other => other,
    }
}

fn must_escape(b: u8, place: Place) -> bool {
    if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
        return false;
    }
    match place {
        Place::Host | Place::Zone => !b"!$&'()*+,;=:[]<>\"".contains(&b),
        Place::Path => !b"$&+,/:;=@".contains(&b),
        Place::User => !b"$&+,;=".contains(&b),
        Place::Query => true,
        Place::Fragment => !b"$&+,/:;=?@!()*".contains(&b),
    }
}

fn is_encoded(text: &str, place: Place) -> bool {
    text.bytes()
        .all(|b| b"!$&'()*+,;=:@[]%".contains(&b) || !must_escape(b, place))
}

fn escape(text: &[u8], place: Place) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text {
        match b {
            b' ' if place == Place::Query => out.push('+'),
            b if must_escape(*b, place) => out += &format!("%{b:02X}"),
            b => out.push(char::from(*b)),
        }
    }
    out
}

fn unescape(text: &str, place: Place) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        match b {
            b'%' => {
                let code = text.get(at + 1..at + 3)?;
                let is_hex = code.bytes().all(|b| b.is_ascii_hexdigit());
                let byte = u8::from_str_radix(code, 16).ok().filter(|_| is_hex)?;
                let odd = match place {
                    Place::Host => byte < 0x80,
                    Place::Zone => byte != b' ' && must_escape(byte, Place::Host),
                    _ => false,
                };
                if odd && code != "25" {
                    return None;
                }
                out.push(byte);
                at += 3;
                continue;
            }
            b'+' if place == Place::Query => out.push(b' '),
            b if matches!(place, Place::Host | Place::Zone)
                && b.is_ascii()
                && must_escape(*b, place) =>
            {
                return None;
            }
            b => out.push(*b),
        }
        at += 1;
    }
    Some(out)
}
