// A real authorization server for tests: npm's oidc-provider on a free loopback port.
//
// The first line of standard input is its configuration, as JSON: `clients`, each with `client_id`, `client_secret`,
// `method`, `scope` and `lifetime_s` of its tokens, and `api`, the id and secret of the one that may introspect and
// revoke. It then prints its endpoints as one line of JSON. It serves until SIGTERM, or until standard input ends, so
// that it cannot outlive the test run. An access token is opaque; one for a `resource` (RFC 8707) is a signed JWT.
//
// With `tls` (`cert`, `key` and `client_ca`, as PEM) it speaks https, and on a second port asks clients for their
// certificate, which its metadata tells as `mtls_endpoint_aliases` (RFC 8705). `metadata` of a client is added to what it
// is registered with.

import { generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

const ALGORITHM = 'RS256';

function shownCertificate(ctx) {
  const shown = ctx.socket.getPeerCertificate?.();
  return shown?.raw ? new X509Certificate(shown.raw) : undefined;
}

function configuration({ clients, api }, mtlsAliases) {
  const lifetimes = new Map(clients.map((client) => [client.client_id, client.lifetime_s]));
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const mayLookAtTokens = (_ctx, client) => client.clientId === api.client_id;
  const registered = ({ client_id, client_secret, method = 'client_secret_basic', scope, metadata }) => ({
    client_id,
    client_secret: client_secret || undefined,
    scope,
    token_endpoint_auth_method: method,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    ...metadata,
  });
  return {
    clients: [...clients, api].map(registered),
    scopes: [...new Set(clients.flatMap((client) => client.scope.split(' ')))],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'of-this-run', alg: ALGORITHM, use: 'sig' }] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    ttl: { ClientCredentials: (_ctx, _token, client) => lifetimes.get(client.clientId) },
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
      'tls_client_auth', 'self_signed_tls_client_auth',
    ],
    discovery: mtlsAliases,
    features: {
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        selfSignedTlsClientAuth: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => shownCertificate(ctx)?.toString(),
        certificateAuthorized: (ctx) => ctx.socket.authorized === true,
        certificateSubjectMatches: (ctx, _property, expected) =>
          shownCertificate(ctx)?.subject.replaceAll('\n', ',') === expected,
      },
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: mayLookAtTokens },
      revocation: { enabled: true, allowedPolicy: mayLookAtTokens },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_ctx, resource, client) => ({
          scope: client.scope,
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: lifetimes.get(client.clientId),
          jwt: { sign: { alg: ALGORITHM } },
        }),
      },
    },
  };
}

function listening(server) {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

async function serve(settings) {
  const { tls } = settings;
  const server = tls ? createTlsServer({ cert: tls.cert, key: tls.key }) : createServer();
  const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${await listening(server)}`; // a Provider needs it from the start
  const aliases = {};
  const asking = tls && createTlsServer({ ...tls, ca: tls.client_ca, requestCert: true, rejectUnauthorized: false });
  if (asking) {
    aliases.mtls_endpoint_aliases = { token_endpoint: `https://127.0.0.1:${await listening(asking)}/token` };
  }
  const provider = new Provider(issuer, configuration(settings, aliases));
  server.on('request', provider.callback());
  asking?.on('request', provider.callback());
  const endpoints = {
    issuer,
    token_endpoint: `${issuer}/token`,
    introspection_endpoint: `${issuer}/token/introspection`,
    revocation_endpoint: `${issuer}/token/revocation`,
    jwks_uri: `${issuer}/jwks`,
    mtls_token_endpoint: aliases.mtls_endpoint_aliases?.token_endpoint,
  };
  console.log(JSON.stringify(endpoints));
}

const input = createInterface({ input: process.stdin });
input.once('line', (line) => serve(JSON.parse(line)));
input.once('close', () => process.exit(0));
