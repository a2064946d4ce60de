//! Certificates for tests.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate with its key, and the authority that signed it.
pub struct Tls {
    ca_pem: String,
    cert_pem: String,
    key_pem: String,
}

impl Tls {
    /// A certificate for `localhost` and 127.0.0.1, of an authority of its own.
    pub fn localhost() -> Self {
        Self::for_names(&["localhost", "127.0.0.1"])
    }

    /// A certificate for `names` (host names or addresses), of an authority of its own.
    ///
    /// # Panics
    ///
    /// When a name cannot stand in a certificate.
    pub fn for_names(names: &[&str]) -> Self {
        let mut params = CertificateParams::new([]).expect("parameters of the authority");
        params.distinguished_name.push(DnType::CommonName, "testbed authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("key of the authority");
        let ca = params.self_signed(&ca_key).expect("certificate of the authority");
        let issuer = Issuer::new(params, ca_key);

        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).expect("names of a certificate");
        let key = KeyPair::generate().expect("key of a certificate");
        let cert = params.signed_by(&key, &issuer).expect("certificate");
        Self { ca_pem: ca.pem(), cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    /// The authority's certificate, for `ca_file`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The certificate, for `ssl_certificate`.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The key, for `ssl_certificate_key`.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What a server with this certificate needs.
    ///
    /// # Panics
    ///
    /// Never: what was just made is well-formed.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let cert = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).expect("certificate");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("key");
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![cert], key).expect("a certificate and its key"))
    }

    /// What a client that trusts this authority needs.
    ///
    /// # Panics
    ///
    /// Never: what was just made is well-formed.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("certificate");
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("an authority's certificate");
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }
}
