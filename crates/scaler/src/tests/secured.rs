//! TLS on both ways, with certificates of the test's own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use super::common::{Node, Replica, asked, eventually};
use crate::{
    ClientTls, Limits, ServerTls, picture::unix_ns, proto::keda::external_scaler_client::ExternalScalerClient,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Certificate and key for a name.
    fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn server(&self, name: &str, client_authority: Option<&Self>) -> ServerTls {
        let (certificate, key) = self.issue(name);
        ServerTls { certificate, key, client_authority: client_authority.map(Self::pem) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_lets_in_only_scalers_of_its_authority() {
    let (good, evil) = (Authority::new(), Authority::new());
    let address = "127.0.0.1:0".parse().unwrap();
    let mut node = Node::start_at(address, "a", Some(good.server("node", Some(&good))), |_| {}).await;
    node.board.called("market", "shop", 1, unix_ns());
    let replica = |identity, authority: &Authority, name: &str| {
        let tls = ClientTls { authority: authority.pem(), name: name.into(), identity };
        Replica::start_with(vec![node.address.to_string()], Limits::default(), None, Some(tls))
    };
    let known = replica(Some(good.issue("scaler")), &good, "node").await;
    eventually("let in", async || matches!(known.is_active("shop").await, Ok(true))).await;
    for refused in [
        replica(None, &good, "node").await,
        replica(Some(evil.issue("scaler")), &good, "node").await,
        replica(Some(good.issue("scaler")), &evil, "node").await,
        replica(Some(good.issue("scaler")), &good, "another").await,
    ] {
        eventually("refused", async || refused.scaler.figures().node_failures > 0).await;
        assert!(refused.is_active("shop").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keda_is_answered_over_tls() {
    let authority = Authority::new();
    let mut node = Node::start("a").await;
    node.board.called("market", "shop", 1, unix_ns());
    let tls = authority.server("scaler.example", None);
    let replica =
        Replica::start_with(vec![node.address.to_string()], Limits::default(), Some(tls), None).await;
    let trust = Certificate::from_pem(authority.pem());
    let tls = ClientTlsConfig::new().ca_certificate(trust).domain_name("scaler.example");
    let endpoint = Channel::from_shared(format!("https://{}", replica.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let mut client = ExternalScalerClient::new(channel);
    let question = asked(&[("service", "shop")]);
    let mut stream = client.stream_is_active(question).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().result);
    let plain = Channel::from_shared(format!("http://{}", replica.address)).unwrap().connect_lazy();
    assert!(ExternalScalerClient::new(plain).is_active(asked(&[("service", "shop")])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfit_certificate_is_said_at_the_start() {
    let authority = Authority::new();
    for (certificate, key) in [(vec![], vec![]), (authority.issue("a").0, authority.issue("b").1)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_board, feed) = crate::demand::board(crate::demand::Settings::new("a".into(), 1));
        let tls = ServerTls { certificate, key, client_authority: None };
        let error =
            crate::demand::serve(listener, feed, Some(tls), std::future::pending()).await.unwrap_err();
        assert!(matches!(error, crate::Error::Tls(_)), "{error}");
    }
}
