// A real authorization server for tests: npm's oidc-provider on a free loopback port.
//
// The first line of standard input is its configuration, as JSON: `clients`, each with `client_id`, `client_secret`,
// `method`, `scope` and `lifetime_s` of its tokens, and `api`, the id and secret of the one that may introspect and
// revoke. It then prints its endpoints as one line of JSON. It serves until SIGTERM, or until standard input ends, so
// that it cannot outlive the test run. An access token is opaque; one for a `resource` (RFC 8707) is a signed JWT.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

const ALGORITHM = 'RS256';

function configuration({ clients, api }) {
  const lifetimes = new Map(clients.map((client) => [client.client_id, client.lifetime_s]));
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const mayLookAtTokens = (_ctx, client) => client.clientId === api.client_id;
  const registered = ({ client_id, client_secret, method = 'client_secret_basic', scope }) => ({
    client_id,
    client_secret,
    scope,
    token_endpoint_auth_method: method,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  });
  return {
    clients: [...clients, api].map(registered),
    scopes: [...new Set(clients.flatMap((client) => client.scope.split(' ')))],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'of-this-run', alg: ALGORITHM, use: 'sig' }] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    ttl: { ClientCredentials: (_ctx, _token, client) => lifetimes.get(client.clientId) },
    features: {
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

function serve(settings) {
  const server = createServer();
  server.listen(0, '127.0.0.1', () => {
    const issuer = `http://127.0.0.1:${server.address().port}`; // known only now, and a Provider needs it from the start
    const provider = new Provider(issuer, configuration(settings));
    server.on('request', provider.callback());
    const endpoints = {
      issuer,
      token_endpoint: `${issuer}/token`,
      introspection_endpoint: `${issuer}/token/introspection`,
      revocation_endpoint: `${issuer}/token/revocation`,
      jwks_uri: `${issuer}/jwks`,
    };
    console.log(JSON.stringify(endpoints));
  });
}

const input = createInterface({ input: process.stdin });
input.once('line', (line) => serve(JSON.parse(line)));
input.once('close', () => process.exit(0));
