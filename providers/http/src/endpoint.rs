//! A worker's address and token, checked.

use std::{fs::File, io::Read, path::Path};

use outboard_core::error::{Error, ErrorKind, IoContext, Result};
use outboard_store::transport::is_loopback;
use reqwest::{Certificate, Url, header::HeaderValue};

use crate::{Config, WorkerConfig};

/// A token file is refused beyond this many bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Where a worker listens, and the header that it wants.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Ends with `/v1/`.
    pub(crate) url: Url,
    pub(crate) authorization: HeaderValue,
    pub(crate) is_loopback: bool,
    /// To be trusted besides those that the system trusts.
    pub(crate) certificates: Vec<Certificate>,
}

impl Endpoint {
    /// All workers of the configuration.
    pub(crate) fn all(config: &Config) -> Result<Vec<Self>> {
        if config.workers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "the http provider has no workers")
                .at("key", "providers.http.workers")
                .hint("write `workers = [{ url = \"http://127.0.0.1:7878\", token_file = \"...\" }]`"));
        }
        let endpoint = |(index, worker)| {
            Self::new(worker, config.allow_plain_http)
                .map_err(|error| error.at("key", format!("providers.http.workers[{index}]")))
        };
        let all = config.workers.iter().enumerate().map(endpoint).collect::<Result<Vec<_>>>()?;
        match (1..all.len()).find(|&index| all[..index].iter().any(|other| other.url == all[index].url)) {
            Some(index) => Err(wrong(format!("{} is there twice", config.workers[index].url))
                .at("key", format!("providers.http.workers[{index}]"))
                .hint("remove one of them")),
            None => Ok(all),
        }
    }

    fn new(worker: &WorkerConfig, allow_plain_http: bool) -> Result<Self> {
        let url = base(&worker.url)?;
        let is_loopback = url.host_str().is_some_and(is_loopback);
        if url.scheme() == "http" && !is_loopback && !allow_plain_http {
            return Err(wrong("plain HTTP would show the token and the data to the network on the way")
                .at("url", &worker.url)
                .hint("use https, or an SSH tunnel to 127.0.0.1, or set `providers.http.allow_plain_http = true`"));
        }
        let certificates = match &worker.ca_file {
            Some(path) => read_certificates(path)?,
            None => Vec::new(),
        };
        Ok(Self { url, authorization: bearer(worker)?, is_loopback, certificates })
    }
}

/// The URL that requests are relative to. What may hold a secret isn't repeated.
fn base(text: &str) -> Result<Url> {
    let hint = "write it as in `url = \"http://127.0.0.1:7878\"`";
    let mut url = Url::parse(text).map_err(|e| wrong("`url` is not a URL").because(e).hint(hint))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("`url` starts with neither `http://` nor `https://`").hint(hint));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("`url` holds more than an address").hint("put the secret in `token` or `token_file`"));
    }
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push("v1").push("");
    }
    Ok(url)
}

fn bearer(worker: &WorkerConfig) -> Result<HeaderValue> {
    let token = match (&worker.token, &worker.token_file) {
        (Some(token), None) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => return Err(wrong("the worker has no token").hint("set `token_file` or `token`")),
        (Some(_), Some(_)) => return Err(wrong("`token` and `token_file` are both set").hint("remove one of them")),
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong("the worker's token is empty").hint("use the token that the worker was started with"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| wrong("the worker's token has characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_token(path: &Path) -> Result<String> {
    let mut token = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token))
        .doing("read the token file", path)
        .map_err(|e| wrong(e.to_string()).hint(e.advice().unwrap_or("check the path")))?;
    if token.len() as u64 > MAX_TOKEN_BYTES {
        return Err(wrong("the token file is too large").at("file", path.display()).hint("name a file with one token"));
    }
    Ok(token)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>> {
    let bytes = std::fs::read(path)
        .doing("read the certificate file", path)
        .map_err(|e| wrong(e.to_string()).hint(e.advice().unwrap_or("check the path")))?;
    match Certificate::from_pem_bundle(&bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong("`ca_file` holds no certificate in PEM form")
            .at("file", path.display())
            .hint("name the file that the worker was started with as --tls-cert")),
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, allow_plain_http: bool) -> Result<Endpoint> {
        let worker = WorkerConfig { url: url.into(), token: Some("s3cret".into()), ..WorkerConfig::default() };
        Endpoint::new(&worker, allow_plain_http)
    }

    #[test]
    fn plain_http_stays_on_this_machine_unless_told() {
        for url in ["http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:1", "http://localhost", "https://far.away"]
        {
            assert!(endpoint(url, false).is_ok(), "{url}");
        }
        for url in ["http://far.away", "http://10.0.0.1", "http://localhost.far.away", "http://[::2]"] {
            let error = endpoint(url, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(error.advice().unwrap().contains("allow_plain_http"), "{url}");
            assert!(endpoint(url, true).is_ok(), "{url}");
        }
        assert_eq!(endpoint("https://a/outboard/", false).unwrap().url.as_str(), "https://a/outboard/v1/");
        assert_eq!(endpoint("https://a/outboard", false).unwrap().url.as_str(), "https://a/outboard/v1/");
    }

    #[test]
    fn secrets_are_neither_taken_from_urls_nor_repeated() {
        for url in
            ["http://me:s3cret@localhost", "http://localhost?t=s3cret", "ftp://s3cret", "s3cret", "http://s3cret:x"]
        {
            let report = endpoint(url, true).unwrap_err().report();
            assert!(!report.contains("s3cret"), "{report}");
        }
        assert!(!format!("{:?}", endpoint("http://localhost", false).unwrap()).contains("s3cret"));
    }

    #[test]
    fn one_token_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Some(folder.path().join(name))
        };
        let token = |token: Option<&str>, token_file| {
            bearer(&WorkerConfig { url: String::new(), token: token.map(Into::into), token_file, ca_file: None })
        };
        assert_eq!(token(None, file("good", b" abc\n")).unwrap(), "Bearer abc");
        assert_eq!(token(Some("abc"), None).unwrap(), "Bearer abc");
        for wrong in [
            token(None, None),
            token(Some("a"), file("other", b"a")),
            token(Some(" "), None),
            token(Some("a\nb"), None),
            token(None, Some("missing".into())),
            token(None, file("large", &[b'a'; 5000])),
        ] {
            assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
    }

    #[test]
    fn workers_are_needed_and_differ() {
        let worker = |url: &str| WorkerConfig { url: url.into(), token: Some("t".into()), ..WorkerConfig::default() };
        let all = |workers| Endpoint::all(&Config { workers, ..Config::default() });
        assert_eq!(all(vec![worker("http://[::1]:1"), worker("http://[::1]:2")]).unwrap().len(), 2);
        assert!(all(vec![]).is_err());
        let error = all(vec![worker("http://[::1]:1"), worker("http://[::1]:1/")]).unwrap_err();
        assert_eq!(error.context()[0].1, "providers.http.workers[1]");
    }
}
