<?php

// php-amqplib against a broker; it logs in with AMQPLAIN. Prints a TAP line per scenario.

declare(strict_types=1);

require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPBasicCancelException;
use PhpAmqpLib\Exception\AMQPConnectionClosedException;
use PhpAmqpLib\Exception\AMQPProtocolException;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPDecimal;
use PhpAmqpLib\Wire\AMQPTable;

const WAIT = 20;

set_error_handler(function (int $level, string $what, string $file, int $line): bool {
    // The library's own quirks with this PHP are not the broker's.
    if ($level & (E_DEPRECATED | E_USER_DEPRECATED)) {
        return true;
    }
    throw new ErrorException($what, 0, $level, $file, $line);
});

function variable(string $name): string
{
    $value = getenv($name);
    same(true, is_string($value), "$name is set");
    return $value;
}

function same(mixed $want, mixed $got, string $what): void
{
    if ($want !== $got) {
        $show = fn (mixed $value): string => substr(json_encode($value, JSON_INVALID_UTF8_SUBSTITUTE), 0, 200);
        throw new RuntimeException("$what: got {$show($got)}, want {$show($want)}");
    }
}

function connect(?string $password = null, string $virtualHost = '/', int $heartbeat = 0, string $mechanism = 'AMQPLAIN'): AMQPStreamConnection
{
    return new AMQPStreamConnection(
        variable('AMQP_HOST'),
        (int) variable('AMQP_PORT'),
        variable('AMQP_USER'),
        $password ?? variable('AMQP_PASSWORD'),
        $virtualHost,
        login_method: $mechanism,
        connection_timeout: WAIT,
        read_write_timeout: WAIT,
        heartbeat: $heartbeat,
        channel_rpc_timeout: WAIT,
    );
}

function unique(string $what): string
{
    return "php-amqplib.$what." . bin2hex(random_bytes(4));
}

/** @param array<string, mixed> $arguments */
function declareQueue(AMQPChannel $channel, string $name, array $arguments = []): string
{
    [$queue] = $channel->queue_declare($name, durable: true, auto_delete: false, arguments: new AMQPTable($arguments));
    return $queue;
}

function exclusive(AMQPChannel $channel, string $name = ''): string
{
    [$queue] = $channel->queue_declare($name, exclusive: true);
    return $queue;
}

function countOf(AMQPChannel $channel, string $queue): int
{
    return $channel->queue_declare($queue, passive: true)[1];
}

/** @param array<string, mixed> $properties */
function send(AMQPChannel $channel, string $queue, string $body, array $properties = [], string $exchange = '', bool $mandatory = false): void
{
    $channel->basic_publish(new AMQPMessage($body, $properties), $exchange, $queue, $mandatory);
}

/** A consumer; what it gets waits in a list. */
final class Consumer
{
    /** @var list<AMQPMessage> */
    public array $waiting = [];
    public readonly string $tag;

    public function __construct(private readonly AMQPChannel $channel, string $queue, bool $noAck = false)
    {
        $take = function (AMQPMessage $message): void {
            $this->waiting[] = $message;
        };
        $this->tag = $channel->basic_consume($queue, no_ack: $noAck, callback: $take);
    }

    public function next(): AMQPMessage
    {
        while ($this->waiting === []) {
            $this->channel->wait(null, false, WAIT);
        }
        return array_shift($this->waiting);
    }

    public function cancel(): void
    {
        $this->channel->basic_cancel($this->tag);
    }
}

function refused(int $code, string $text, callable $do): void
{
    try {
        $do();
    } catch (AMQPProtocolException | AMQPConnectionClosedException $refusal) {
        same($code, $refusal->getCode(), $refusal->getMessage());
        same(true, str_contains($refusal->getMessage(), $text), $refusal->getMessage());
        return;
    }
    throw new RuntimeException("it was not refused with $code");
}

function control(string $command): void
{
    $line = stream_socket_client('tcp://' . variable('AMQP_CONTROL'), timeout: WAIT);
    stream_set_timeout($line, 60);
    fwrite($line, "$command\n");
    same('ok', trim((string) fgets($line)), $command);
}

function confirms(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('confirms'));
    $acked = 0;
    $channel->set_ack_handler(function () use (&$acked): void {
        $acked++;
    });
    $channel->confirm_select();
    for ($n = 0; $n < 100; $n++) {
        send($channel, $queue, (string) $n, ['delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT]);
    }
    $channel->wait_for_pending_acks(WAIT);
    same(100, $acked, 'confirms');
    same(100, countOf($channel, $queue), 'messages');
    same(100, $channel->queue_delete($queue), 'messages deleted');
    $connection->close();
}

function consumeAck(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('consume'));
    for ($n = 0; $n < 200; $n++) {
        $channel->batch_basic_publish(new AMQPMessage((string) $n), '', $queue);
    }
    $channel->publish_batch();
    $channel->basic_qos(0, 10, false);
    $consumer = new Consumer($channel, $queue);
    for ($n = 0; $n < 200; $n++) {
        $message = $consumer->next();
        same((string) $n, $message->getBody(), 'order');
        $message->ack();
    }
    same(0, countOf($channel, $queue), 'messages left');
    $consumer->cancel();
    $channel->queue_delete($queue);
    $connection->close();
}

function redelivery(): void
{
    $first = connect();
    $first->set_close_on_destruct(false);
    $channel = $first->channel();
    $queue = declareQueue($channel, unique('redelivery'));
    send($channel, $queue, 'again');
    same(false, $channel->basic_get($queue)->isRedelivered(), 'redelivered at first');
    // The connection is lost with the delivery in hand.
    stream_socket_shutdown($first->getIO()->getSocket(), STREAM_SHUT_RDWR);
    $second = connect();
    $channel = $second->channel();
    $consumer = new Consumer($channel, $queue);
    $message = $consumer->next();
    same(['again', true], [$message->getBody(), $message->isRedelivered()], 'redelivered');
    $consumer->cancel();
    $message->nack(true);
    $message = $channel->basic_get($queue);
    same(true, $message->isRedelivered(), 'redelivered after a nack');
    $message->reject(false);
    same(null, $channel->basic_get($queue), 'after the reject');
    $channel->queue_delete($queue);
    $second->close();
}

function mandatory(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $returned = [];
    $channel->set_return_listener(function (int $code, string $text, string $exchange, string $key, AMQPMessage $message) use (&$returned): void {
        $returned[] = [$code, $text, $key, $message->getBody()];
    });
    $channel->confirm_select();
    $nobody = unique('nobody');
    send($channel, $nobody, 'back', mandatory: true);
    $channel->wait_for_pending_acks_returns(WAIT);
    same([[312, 'NO_ROUTE', $nobody, 'back']], $returned, 'return');
    send($channel, $nobody, 'gone');
    $channel->wait_for_pending_acks_returns(WAIT);
    same(1, count($returned), 'returns');
    $connection->close();
}

function deadLetter(): void
{
    $connection = connect();
    $channel = $connection->channel();
    [$source, $exchange] = [unique('source'), unique('dlx')];
    $dead = declareQueue($channel, unique('dead'));
    $channel->exchange_declare($exchange, 'fanout', auto_delete: false);
    $channel->queue_bind($dead, $exchange);
    declareQueue($channel, $source, ['x-dead-letter-exchange' => $exchange, 'x-message-ttl' => 1]);
    send($channel, $source, 'late', ['application_headers' => new AMQPTable(['mine' => 'kept'])]);
    $message = (new Consumer($channel, $dead, noAck: true))->next();
    $headers = $message->get('application_headers')->getNativeData();
    same(['late', 'kept', 'expired'], [$message->getBody(), $headers['mine'], $headers['x-first-death-reason']], 'dead letter');
    same(1, count($headers['x-death']), 'deaths');
    $death = $headers['x-death'][0];
    same(['expired', $source, '', 1, [$source]], [$death['reason'], $death['queue'], $death['exchange'], $death['count'], $death['routing-keys']], 'x-death');
    $channel->queue_delete($source);
    $channel->exchange_delete($exchange);
    $connection->close();
    // With the consumer gone the queue is unused.
    $connection = connect();
    $connection->channel()->queue_delete($dead, if_unused: true);
    $connection->close();
}

function ttl(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('ttl'));
    send($channel, $queue, 'short', ['expiration' => '100']);
    send($channel, $queue, 'long', ['expiration' => '60000']);
    usleep(2_200_000);
    $message = $channel->basic_get($queue, true);
    same(['long', '60000'], [$message->getBody(), $message->get('expiration')], 'what stayed');
    $channel->queue_delete($queue);
    $connection->close();
}

function serverNamed(): void
{
    [$connection, $other] = [connect(), connect()];
    $channel = $connection->channel();
    $queue = exclusive($channel);
    same(true, str_starts_with($queue, 'amq.gen-'), $queue);
    $channel->queue_bind($queue, 'amq.topic', 'a.*');
    $consumer = new Consumer($channel, $queue, noAck: true);
    send($channel, 'a.b.c', 'not', exchange: 'amq.topic');
    send($channel, 'a.b', 'routed', exchange: 'amq.topic');
    $message = $consumer->next();
    same(['routed', 'amq.topic', 'a.b'], [$message->getBody(), $message->getExchange(), $message->getRoutingKey()], 'delivery');
    refused(405, 'RESOURCE_LOCKED', fn () => countOf($other->channel(), $queue));
    $connection->close();
    refused(404, "NOT_FOUND - no queue '$queue'", fn () => countOf($other->channel(), $queue));
    $other->close();
}

function rpc(): void
{
    [$server, $client] = [connect(), connect()];
    [$serving, $asking] = [$server->channel(), $client->channel()];
    $queue = exclusive($serving, unique('rpc'));
    $questions = new Consumer($serving, $queue, noAck: true);
    $answers = new Consumer($asking, 'amq.rabbitmq.reply-to', noAck: true);
    send($asking, $queue, 'question', ['reply_to' => 'amq.rabbitmq.reply-to', 'correlation_id' => '7']);
    $question = $questions->next();
    same('question', $question->getBody(), 'question');
    same(true, str_starts_with($question->get('reply_to'), 'amq.rabbitmq.reply-to.'), $question->get('reply_to'));
    send($serving, $question->get('reply_to'), 'answer', ['correlation_id' => $question->get('correlation_id')]);
    $answer = $answers->next();
    same(['answer', '7'], [$answer->getBody(), $answer->get('correlation_id')], 'answer');
    $client->close();
    $server->close();
}

function large(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('large'));
    $channel->confirm_select();
    foreach ([0, 131_064, 131_065, 1 << 20, 5_000_000] as $size) {
        $body = $size === 0 ? '' : random_bytes($size);
        send($channel, $queue, $body);
        $channel->wait_for_pending_acks(WAIT);
        $back = $channel->basic_get($queue, true)->getBody();
        same(true, $back === $body, "$size bytes came back as " . strlen($back) . '; the same');
    }
    $channel->queue_delete($queue);
    $connection->close();
}

/** Each property, and each kind of value in the headers that this library writes. */
function properties(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = exclusive($channel);
    $when = new DateTime('@1700000000');
    $headers = [
        'text' => 'grüße',
        'yes' => true,
        'int' => -5,
        'long' => 1 << 40,
        'nothing' => null,
        'list' => [1, 'two', ['three' => 3]],
        'table' => ['inner' => ['deep' => 'value']],
        'decimal' => new AMQPDecimal(12345, 2),
        'time' => $when,
    ];
    $sent = [
        'content_type' => 'text/plain',
        'content_encoding' => 'identity',
        'delivery_mode' => 2,
        'priority' => 3,
        'correlation_id' => 'correlation',
        'reply_to' => 'answers',
        'expiration' => '60000',
        'message_id' => 'id',
        'timestamp' => 1_700_000_000,
        'type' => 'kind',
        'user_id' => variable('AMQP_USER'),
        'app_id' => 'app',
    ];
    send($channel, $queue, 'body', $sent + ['application_headers' => new AMQPTable($headers)]);
    $message = $channel->basic_get($queue, true);
    $got = $message->get_properties();
    foreach ($sent as $name => $value) {
        same((string) $value, (string) $got[$name], $name);
    }
    $back = $got['application_headers']->getNativeData();
    same(array_keys($headers), array_keys($back), 'names');
    foreach (['text', 'yes', 'int', 'long', 'nothing', 'list', 'table'] as $name) {
        same($headers[$name], $back[$name], $name);
    }
    same([12345, 2], [$back['decimal']->getN(), $back['decimal']->getE()], 'decimal');
    same($when->getTimestamp(), $back['time']->getTimestamp(), 'time');
    $connection->close();
}

function transactions(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('tx'));
    $channel->tx_select();
    send($channel, $queue, 'no');
    $channel->tx_rollback();
    send($channel, $queue, 'yes');
    $channel->tx_commit();
    same(1, countOf($channel, $queue), 'messages');
    $message = $channel->basic_get($queue);
    same('yes', $message->getBody(), 'body');
    $message->ack();
    $channel->tx_commit();
    same(0, $channel->queue_delete($queue), 'messages left');
    $connection->close();
}

function channelError(): void
{
    $connection = connect();
    [$one, $two] = [$connection->channel(), $connection->channel()];
    $queue = unique('nope');
    refused(404, "NOT_FOUND - no queue '$queue' in vhost '/'", fn () => countOf($one, $queue));
    // The connection goes on.
    $mine = declareQueue($two, unique('different'));
    refused(406, "inequivalent arg 'durable'", fn () => $two->queue_declare($mine, durable: false, auto_delete: false));
    $connection->channel()->queue_delete($mine);
    $connection->close();
}

function cancelNotify(): void
{
    [$connection, $other] = [connect(), connect()];
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('cancelled'));
    $consumer = new Consumer($channel, $queue);
    $other->channel()->queue_delete($queue);
    try {
        $consumer->next();
        throw new RuntimeException('a message came');
    } catch (AMQPBasicCancelException $cancelled) {
        same($consumer->tag, $cancelled->consumerTag, 'tag');
    }
    exclusive($channel);
    $connection->close();
    $other->close();
}

function wrongPassword(): void
{
    refused(403, 'ACCESS_REFUSED', fn () => connect('wrong'));
    refused(403, 'ACCESS_REFUSED', fn () => connect('wrong', mechanism: 'PLAIN'));
    refused(530, 'vhost nope not found', fn () => connect(virtualHost: 'nope'));
    connect(mechanism: 'PLAIN')->close();
}

function heartbeat(): void
{
    $connection = connect(heartbeat: 2);
    $channel = $connection->channel();
    $queue = exclusive($channel);
    for ($n = 0; $n < 6; $n++) {
        sleep(1);
        // Sends one when it is due, and fails when none has come for too long.
        $connection->checkHeartBeat();
    }
    send($channel, $queue, 'still here');
    same('still here', $channel->basic_get($queue, true)->getBody(), 'body');
    $connection->close();
}

function cleanClose(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $channel->close();
    same([false, true], [$channel->is_open(), $connection->isConnected()], 'after the close of the channel');
    exclusive($connection->channel());
    $connection->close();
    same(false, $connection->isConnected(), 'connected');
}

function dirtyClose(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('dirty'));
    $address = 'tcp://' . variable('AMQP_HOST') . ':' . variable('AMQP_PORT');
    $cut = stream_socket_client($address, timeout: WAIT);
    fwrite($cut, "AMQP\0\0\x09\x01\x01\0\0");
    fclose($cut);
    $wrong = stream_socket_client($address, timeout: WAIT);
    stream_set_timeout($wrong, WAIT);
    fwrite($wrong, "GET / HTTP/1.1\r\n");
    same('414d515000000901', bin2hex((string) fread($wrong, 8)), 'header');
    $channel->queue_delete($queue);
    $connection->close();
}

function restartKill9(): void
{
    $connection = connect();
    $connection->set_close_on_destruct(false);
    $channel = $connection->channel();
    $queue = declareQueue($channel, unique('restart'));
    $channel->confirm_select();
    for ($n = 0; $n < 50; $n++) {
        send($channel, $queue, (string) $n, ['delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT]);
    }
    $channel->wait_for_pending_acks(WAIT);
    control('kill9');
    $connection = connect();
    $channel = $connection->channel();
    $consumer = new Consumer($channel, $queue, noAck: true);
    for ($n = 0; $n < 50; $n++) {
        same((string) $n, $consumer->next()->getBody(), 'order');
    }
    same(0, $channel->queue_delete($queue), 'messages left');
    $connection->close();
}

$scenarios = [
    'confirms' => confirms(...),
    'consume-ack' => consumeAck(...),
    'redelivery' => redelivery(...),
    'mandatory' => mandatory(...),
    'dead-letter' => deadLetter(...),
    'ttl' => ttl(...),
    'server-named' => serverNamed(...),
    'rpc' => rpc(...),
    'large' => large(...),
    'properties' => properties(...),
    'tx' => transactions(...),
    'channel-error' => channelError(...),
    'cancel-notify' => cancelNotify(...),
    'wrong-password' => wrongPassword(...),
    'heartbeat' => heartbeat(...),
    'clean-close' => cleanClose(...),
    'dirty-close' => dirtyClose(...),
    'restart-kill9' => restartKill9(...),
];
$chosen = array_slice($argv, 1);
$failed = 0;
foreach ($scenarios as $name => $run) {
    if ($chosen !== [] && !in_array($name, $chosen, true)) {
        continue;
    }
    try {
        $run();
        echo "ok - $name\n";
    } catch (Throwable $failure) {
        $failed++;
        echo "not ok - $name: ", get_class($failure), ': ', str_replace("\n", ' ', $failure->getMessage()), "\n";
        echo $failure->getTraceAsString(), "\n";
    }
}
exit($failed > 0 ? 1 : 0);
