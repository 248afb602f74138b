//! Environment variables: those that matter to a run, without secrets.
//!
//! The worker for PyTorch tells the same ones, in `environment.py`.

/// Those that are told.
pub const NAMES: [&str; 16] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_BIND_NOW",
    "LD_AUDIT",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
];

/// Those whose names begin so are told too. Prefixes that other programs use for secrets, such as `TF_` and `LD_`, are none
/// of them.
pub const PREFIXES: [&str; 14] = [
    "LC_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "CUDA_",
    "CUBLAS_",
    "CUDNN_",
    "NCCL_",
    "TORCH_",
    "PYTORCH_",
    "PYTHON",
    "MALLOC_",
];

/// Of a proxy its address is told, in upper or lower case.
pub const PROXY: &str = "_PROXY";

/// A variable whose name holds one of these words is never told, nor is a value that holds its value.
pub const SECRET: [&str; 7] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH"];

/// Shorter values of secret variables, `1` and `true` say, stand in others by chance.
const LEAST_SECRET: usize = 8;

/// Name and value of each variable that may be told.
pub(crate) fn told(all: &[(String, String)]) -> impl Iterator<Item = (&str, String)> {
    let secrets = all.iter().filter(|(name, value)| is_secret(name) && value.len() >= LEAST_SECRET);
    let secrets: Vec<_> = secrets.map(|(_, value)| value.as_str()).collect();
    all.iter().filter(|(name, _)| is_told(name)).map(move |(name, value)| {
        let shown = match secrets.iter().any(|secret| value.contains(secret)) {
            true => "(not told: it holds a secret)".into(),
            false => without_credentials(value, is_proxy(name)),
        };
        (name.as_str(), shown)
    })
}

fn is_secret(name: &str) -> bool {
    let name = name.to_uppercase();
    SECRET.iter().any(|word| name.contains(word))
}

fn is_proxy(name: &str) -> bool {
    name.to_uppercase().ends_with(PROXY)
}

fn is_told(name: &str) -> bool {
    !is_secret(name)
        && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || is_proxy(name))
}

/// Of an address only scheme, host and port: what stands before the last `@` is a name and a password, and what follows
/// `?` may be anything.
fn without_credentials(value: &str, is_address: bool) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None if is_address => (String::new(), value),
        None => return value.into(),
    };
    let rest = rest.rsplit('@').next().unwrap_or_default();
    scheme + rest.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let all: Vec<_> = all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        told(&all).map(|(name, value)| (name.to_string(), value)).collect()
    }

    #[test]
    fn what_matters_is_told() {
        let matter = [
            ("PATH", "/usr/bin:/bin"),
            ("LD_PRELOAD", "/lib/libjemalloc.so"),
            ("OMP_NUM_THREADS", "1"),
            ("LC_ALL", "C.UTF-8"),
            ("CUDA_VISIBLE_DEVICES", "0,1"),
            ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
            ("no_proxy", "localhost,10.0.0.0/8"),
            ("HTTPS_PROXY", "http://proxy:3128"),
        ];
        assert_eq!(variables(&matter), matter.map(|(name, value)| (name.to_string(), value.to_string())));
        assert!(variables(&[("HOME", "/root"), ("USER", "me"), ("TF_VAR_db", "x"), ("LD_SDK", "x")]).is_empty());
    }

    #[test]
    fn no_secret_is_told() {
        const SECRETS: [&str; 5] = ["hunter2hunter2", "rpa_0123456789", "p@ss/word!", "AKIA0000", "s3cr3t"];
        let told = variables(&[
            ("RUNPOD_API_KEY", "rpa_0123456789"),
            ("TORCH_TOKEN", "s3cr3t"),
            ("PYTHON_KEYRING_BACKEND", "s3cr3t"),
            ("cuda_password", "s3cr3t"),
            ("NCCL_Secret", "s3cr3t"),
            ("AWS_ACCESS_KEY_ID", "AKIA0000"),
            ("HTTP_PROXY", "http://me:p@ss/word!@proxy.example:3128/?auth=s3cr3t"),
            ("https_proxy", "me:s3cr3t@proxy.example:3128"),
            ("ALL_PROXY", "socks5h://s3cr3t@[::1]:1080"),
            ("DATABASE_PASSWORD", "hunter2hunter2"),
            ("PYTHONSTARTUP", "/run/hunter2hunter2/start.py"),
            ("TORCH_HUB", "https://me:s3cr3t@hub.example/models?token=s3cr3t"),
        ]);
        let shown: Vec<_> = told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("HTTP_PROXY", "http://proxy.example:3128/"),
                ("https_proxy", "proxy.example:3128"),
                ("ALL_PROXY", "socks5h://[::1]:1080"),
                ("PYTHONSTARTUP", "(not told: it holds a secret)"),
                ("TORCH_HUB", "https://hub.example/models"),
            ]
        );
        for secret in SECRETS {
            assert!(!format!("{told:?}").contains(secret), "{secret}: {told:?}");
        }
    }
}
