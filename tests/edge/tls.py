"""The edge's TLS, by testssl.sh.

    python tls.py [OPTIONS of testssl …]

Everything that testssl.sh rates MEDIUM or worse fails, but what comes from the certificate
of this test: nobody vouches for it, and nobody revokes it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import edge

#: What a certificate that was made for a test cannot have.
OF_THE_CERTIFICATE = {
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "cert_ocspURL",
    "cert_trust",
    "DNS_CAArecord",
    "cert_extlifeSpan",
    "cert_validityPeriod",
    "overall_grade",
    "grade_cap_reason_1",
}
#: Every suite that is offered has forward secrecy and an AEAD, so the client may choose the one
#: that its processor is good at; and what testssl.sh's own openssl cannot do says nothing of us.
MEANT = {"cipher_order", "engine_problem"}
#: What is bad.
BAD = {"MEDIUM", "HIGH", "CRITICAL", "WARN"}
#: What is told though it is good.
TOLD = ("SSLv", "TLS1", "ALPN", "FS", "HSTS", "session", "BREACH", "heartbleed", "ROBOT")


def main():
    with edge.run(tls=True) as running, tempfile.TemporaryDirectory() as directory:
        report = pathlib.Path(directory) / "report.json"
        command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"]
        command += ["--jsonfile", report, *sys.argv[1:], f"127.0.0.1:{running.gateway}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        findings = json.loads(report.read_text())
    bad = 0
    for finding in findings:
        expected = finding["id"].split(" ")[0] in OF_THE_CERTIFICATE | MEANT
        is_bad = finding["severity"] in BAD and not expected
        bad += is_bad
        if is_bad or finding["id"].startswith(TOLD):
            print(f"{finding['severity']:<8} {finding['id']:<24} {finding['finding']}")
    print(f"{len(findings)} findings, {bad} of them bad")
    print(f"{len(findings) - bad} passed, {bad} failed")
    sys.exit(1 if bad or not findings else 0)


if __name__ == "__main__":
    main()
