# Ruby's stomp gem against a broker: a line of TAP for each scenario. STOMP_PORT says where, ACTIVEMQ_PORT where it is spoken as an ActiveMQ
# does; STOMP_CONTROL is a line protocol that restarts the broker.

require 'stomp'
require 'securerandom'
require 'socket'
require 'timeout'

HOST = ENV.fetch('STOMP_HOST', '127.0.0.1')
PORT = ENV.fetch('STOMP_PORT').to_i
ACTIVEMQ_PORT = ENV.fetch('ACTIVEMQ_PORT').to_i
WAIT = 20
$stdout.sync = true

# Says nothing.
class Quiet < Stomp::NullLogger; end

def connect(port: PORT, version: '1.2', user: 'guest', password: 'guest', more: {})
  headers = { 'accept-version' => version, 'host' => '/' }.merge(more)
  Timeout.timeout(WAIT) do
    Stomp::Connection.new(
      hosts: [{ login: user, passcode: password, host: HOST, port: port }],
      connect_headers: headers, reliable: false, max_reconnect_attempts: 1, logger: Quiet.new, stompconn: false
    )
  end
end

def with(**how)
  connection = connect(**how)
  yield connection
ensure
  begin
    connection&.disconnect
  rescue StandardError
    nil
  end
end

def take(connection)
  Timeout.timeout(WAIT) { connection.receive }
end

def nothing(connection, secs = 0.3)
  frame = Timeout.timeout(secs) { connection.receive }
  raise "nothing was expected: #{frame.inspect}"
rescue Timeout::Error
  nil
end

def equal(got, wanted)
  raise "#{got.inspect} instead of #{wanted.inspect}" unless got == wanted
end

def message(connection, body, redelivered: nil)
  frame = take(connection)
  equal([frame.command, frame.body], ['MESSAGE', body])
  equal(frame.headers['redelivered'] == 'true', redelivered) unless redelivered.nil?
  frame
end

def receipt(connection, id)
  frame = take(connection)
  equal([frame.command, frame.headers['receipt-id']], ['RECEIPT', id])
end

def name(what)
  "ruby-#{what}-#{SecureRandom.hex(4)}"
end

def send_safely(connection, destination, body, more = {})
  id = SecureRandom.hex(4)
  connection.publish(destination, body, { 'persistent' => 'true', 'receipt' => id }.merge(more))
  receipt(connection, id)
end

def subscribe(connection, destination, ack: 'client-individual', id: 's', more: {})
  headers = { 'id' => id, 'ack' => ack, 'receipt' => 'subscribed' }.merge(more)
  connection.subscribe(destination, headers)
  receipt(connection, 'subscribed')
end

def asked(connection, id)
  yield({ 'receipt' => id })
  receipt(connection, id)
end

def restart(word)
  host, port = ENV.fetch('STOMP_CONTROL').split(':')
  TCPSocket.open(host, port.to_i) do |control|
    control.puts(word)
    answer = Timeout.timeout(120) { control.gets }
    equal(answer&.strip, 'ok')
  end
end

SCENARIOS = {
  'versions' => lambda do
    %w[1.0 1.1 1.2].each do |version|
      queue = "/queue/#{name('version')}"
      with(version: version) do |connection|
        equal(connection.protocol, version)
        subscribe(connection, queue)
        # 1.0 has no escapes; what follows the backslash is no letter, because the gem decodes one after the other.
        value = version == '1.0' ? 'plain' : "a:b\\-"
        connection.publish(queue, version, 'k' => value)
        got = message(connection, version)
        equal(got.headers['k'], value)
        asked(connection, 'acked') do |more|
          connection.ack(version == '1.2' ? got.headers['ack'] : got.headers['message-id'], { 'subscription' => 's' }.merge(more))
        end
      end
    end
  end,
  'receipts' => lambda do
    queue = "/queue/#{name('receipts')}"
    with do |connection|
      100.times { |n| connection.publish(queue, n.to_s, 'persistent' => 'true', 'receipt' => "r#{n}") }
      100.times { |n| receipt(connection, "r#{n}") }
      subscribe(connection, queue, ack: 'auto')
      100.times { |n| message(connection, n.to_s) }
    end
  end,
  'client-individual' => lambda do
    queue = "/queue/#{name('individual')}"
    with do |connection|
      3.times { |n| send_safely(connection, queue, n.to_s) }
      subscribe(connection, queue)
      all = 3.times.map { |n| message(connection, n.to_s) }
      asked(connection, 'acked') { |more| connection.ack(all[1].headers['ack'], more) }
    end
    with do |connection|
      subscribe(connection, queue, ack: 'auto')
      message(connection, '0', redelivered: true)
      message(connection, '2', redelivered: true)
      nothing(connection)
    end
  end,
  'nack' => lambda do
    queue, dead = "/queue/#{name('nack')}", name('dead')
    letters = { 'x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => dead }
    with do |connection|
      subscribe(connection, "/queue/#{dead}", ack: 'auto', id: 'dead')
      subscribe(connection, queue, more: letters)
      connection.publish(queue, 'again', letters)
      first = message(connection, 'again', redelivered: false)
      connection.nack(first.headers['ack'], {})
      second = message(connection, 'again', redelivered: true)
      connection.nack(second.headers['ack'], 'requeue' => 'false')
      last = message(connection, 'again')
      equal(last.headers['x-first-death-reason'], 'rejected')
    end
  end,
  'transaction' => lambda do
    queue = "/queue/#{name('tx')}"
    with do |connection|
      subscribe(connection, queue, ack: 'auto')
      connection.begin('t1')
      connection.publish(queue, 'never', 'transaction' => 't1')
      asked(connection, 'aborted') { |more| connection.abort('t1', more) }
      connection.begin('t2')
      connection.publish(queue, 'one', 'transaction' => 't2')
      connection.publish(queue, 'two', 'transaction' => 't2')
      nothing(connection)
      connection.commit('t2')
      message(connection, 'one')
      message(connection, 'two')
      nothing(connection)
    end
  end,
  'durable-subscription' => lambda do
    topic = "/topic/#{name('durable')}"
    lasting = { 'durable' => 'true', 'auto-delete' => 'false' }
    with { |connection| subscribe(connection, topic, id: topic, more: lasting) }
    with { |connection| send_safely(connection, topic, 'kept') }
    restart('kill9')
    with do |connection|
      subscribe(connection, topic, ack: 'auto', id: topic, more: lasting)
      message(connection, 'kept')
      asked(connection, 'ended') { |more| connection.unsubscribe(topic, { 'id' => topic }.merge(lasting).merge(more)) }
    end
  end,
  'activemq-durable' => lambda do
    topic, client = "/topic/#{name('durable')}", name('client')
    mine = { 'activemq.subscriptionName' => 'mine' }
    me = { port: ACTIVEMQ_PORT, more: { 'client-id' => client } }
    with(**me) { |connection| subscribe(connection, topic, more: mine) }
    with(port: ACTIVEMQ_PORT) { |connection| send_safely(connection, topic, 'kept') }
    restart('kill9')
    with(**me) do |connection|
      subscribe(connection, topic, ack: 'auto', more: mine)
      message(connection, 'kept')
    end
  end,
  'activemq-later' => lambda do
    queue = "/queue/#{name('later')}"
    with(port: ACTIVEMQ_PORT) do |connection|
      send_safely(connection, queue, 'late', 'AMQ_SCHEDULED_DELAY' => '3000')
      send_safely(connection, queue, 'twice', 'AMQ_SCHEDULED_DELAY' => '3500', 'AMQ_SCHEDULED_PERIOD' => '100', 'AMQ_SCHEDULED_REPEAT' => '1')
    end
    restart('kill9')
    with(port: ACTIVEMQ_PORT) do |connection|
      subscribe(connection, queue, ack: 'auto')
      %w[late twice twice].each { |body| message(connection, body) }
      nothing(connection)
    end
  end,
  'large' => lambda do
    queue = "/queue/#{name('large')}"
    body = (0..255).to_a.pack('C*') * 4096
    with do |connection|
      send_safely(connection, queue, body)
      subscribe(connection, queue, ack: 'auto')
      got = take(connection)
      equal([got.command, got.body.bytesize, got.body.b == body.b], ['MESSAGE', 1 << 20, true])
    end
  end,
  'dirty-close' => lambda do
    queue = "/queue/#{name('dirty')}"
    with do |watcher|
      send_safely(watcher, queue, 'in hand')
      # A client that dies with a message in hand and half a frame sent.
      lost = TCPSocket.new(HOST, PORT)
      lost.write("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
      lost.write("SUBSCRIBE\nid:1\nack:client\ndestination:#{queue}\n\n\0")
      seen = +''
      Timeout.timeout(WAIT) { seen << lost.readpartial(4096) until seen.include?('in hand') }
      lost.write("SEND\ndestination:#{queue}\ncontent-length:100\n\nhalf of it")
      lost.setsockopt(Socket::SOL_SOCKET, Socket::SO_LINGER, [1, 0].pack('ii'))
      lost.close
      subscribe(watcher, queue, ack: 'auto')
      message(watcher, 'in hand', redelivered: true)
      nothing(watcher)
    end
  end,
  'heart-beat' => lambda do
    with(version: '1.1', more: { 'heart-beat' => '1000,1000' }) do |connection|
      queue = "/queue/#{name('beat')}"
      subscribe(connection, queue, ack: 'auto')
      # The gem's own thread reads while nobody receives.
      sleep 4
      equal([connection.hb_received, connection.hb_sent], [true, true])
      raise "#{connection.hbrecv_count} heart-beats in, #{connection.hbsend_count} out" if connection.hbrecv_count < 2 || connection.hbsend_count < 2

      connection.publish(queue, 'still there')
      message(connection, 'still there')
    end
  end,
  'wrong-password' => lambda do
    refused = connect(password: 'wrong')
    equal([refused.connection_frame.command, refused.connection_frame.headers['message']], ['ERROR', 'Bad CONNECT'])
  end
}.freeze

failed = 0
SCENARIOS.each do |title, scenario|
  scenario.call
  puts "ok - #{title}"
rescue StandardError => e
  failed += 1
  puts "not ok - #{title}: #{e.class}: #{e.message.tr("\n", ' ')} (#{e.backtrace.grep(/client.rb/).first})"
end
exit(failed.zero? ? 0 : 1)
