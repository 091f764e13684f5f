//! `[listen.acme]`: where certificates come from, if not from files.

use std::path::{Path, PathBuf};

use bulla_issuer::key_url;
use url::Url;

use crate::section::Section;

/// Certificates that are asked for by themselves ([RFC 8555]).
///
/// [RFC 8555]: https://www.rfc-editor.org/rfc/rfc8555
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The directory of the authority.
    pub directory: Url,
    /// For which hosts.
    pub domains: Vec<String>,
    /// Where the authority reaches the operator, as URLs such as `mailto:…`.
    pub contact: Vec<String>,
    /// Where account, certificate and key lie.
    pub folder: PathBuf,
    /// Certificate authorities for the directory itself; the system's without.
    pub ca_file: Option<PathBuf>,
}

impl AcmeConfig {
    /// The file with the certificates and their key.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// The file by which the authority knows its client again.
    #[cfg(feature = "acme")]
    pub(crate) fn account(&self) -> PathBuf {
        self.folder.join("account.json")
    }
}

pub(crate) fn read_acme(mut s: Section<'_>, base: &Path) -> Option<AcmeConfig> {
    if !cfg!(feature = "acme") {
        s.problem(
            &s.span(),
            "this edge was built without ACME: build it with the feature `acme`, or name certificate and key",
        );
    }
    let directory = s
        .required_text("directory", "where the authority's directory is")
        .and_then(|text| {
            key_url(&text.value)
                .map_err(|why| s.problem(&text.span, format!("`directory`: {why}")))
                .ok()
        });
    let mut domains = Vec::new();
    for domain in s
        .required_texts("domains", "for which hosts, for example `api.example`")
        .unwrap_or_default()
    {
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if domain.value.split('.').all(label) && !domains.contains(&domain.value) {
            domains.push(domain.value);
        } else {
            s.problem(
                &domain.span,
                format!(
                    "`{}` is no host in lower case, or there twice; wildcards cannot be proven here",
                    domain.value
                ),
            );
        }
    }
    let mut contact = Vec::new();
    for text in s.texts("contact").unwrap_or_default() {
        if text.value.starts_with("mailto:") {
            contact.push(text.value);
        } else {
            s.problem(
                &text.span,
                format!(
                    "`{}` is no address such as `mailto:ops@acme.example`",
                    text.value
                ),
            );
        }
    }
    let folder = s.required_text("folder", "where account, certificate and key are kept");
    let ca_file = s.text("ca_file").map(|f| base.join(f.value));
    if s.flag("accept_terms") != Some(true) {
        s.problem(
            &s.span(),
            "`accept_terms = true` is missing: read the authority's terms of service first",
        );
    }
    s.finish();
    (!domains.is_empty()).then_some(AcmeConfig {
        directory: directory?,
        domains,
        contact,
        folder: base.join(folder?.value),
        ca_file,
    })
}
